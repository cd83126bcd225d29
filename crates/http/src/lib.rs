//! What every HTTP surface of Cameo shares: reading bodies within bounds ([`body`]), refusals in the shape of their
//! path family ([`refusal`]), strict query strings ([`query`]), JSON and what is wrong with it ([`wording`]), and
//! [`serve`], which runs a router on a public port, with [`tls`] or without.
//!
//! What it is not: there are no routes here, and nothing knows what a profile or a batch is.
//!
//! Invariant: a request that arrives whole gets an answer, also when it is refused.

pub mod body;
mod count;
pub mod csv;
mod fallback;
pub mod query;
pub mod refusal;
pub mod serve;
mod stream;
mod strict;
pub mod tls;
pub mod wording;

pub use fallback::{with_fallbacks, with_signposts};
pub use refusal::{Family, Refusal};
