//! driftd.

fn main() {}
