//! The codec and the chain.
