//! End-to-end tests: the real binary over HTTP, one module a promise.
