//! End-to-end tests: the real binary over HTTP and by its command line, one module a promise.

mod bad_input;
mod bulk;
mod checker;
mod cli;
mod cluster;
mod common;
mod corpus;
mod crash;
mod delivery;
mod faults;
mod full_disk;
mod history;
mod identity;
mod import;
mod limits;
mod memory;
mod operations;
mod pages;
mod pipes;
mod profile_api;
mod restart;
mod snapshots;
mod spool;
mod tls;
mod tokens;
mod visits;
