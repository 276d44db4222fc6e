//! Bounds that a bench holds what it finds to.

/// Says whether a bound holds.
pub(crate) fn bound(what: &str, found: f64, holds: bool) {
    let verdict = if holds { "met" } else { "MISSED" };
    println!("\nBound, {what}: {found:.2}, {verdict}");
}
