//! Faults of the embedded log: torn ends, flipped bytes, failing files, a second process.
