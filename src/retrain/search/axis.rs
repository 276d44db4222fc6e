//! A numeric domain as the unit interval: uniform there is uniform on the scale of the domain.
//!
//! A whole number owns a cell of the interval. Cells end half a step beyond the least and the
//! greatest value, so that on a linear scale all are equally wide; on a logarithmic one, where half
//! a step below the least may be nothing, the first begins at half of the least at the earliest.

use serde_json::Value;

use super::read::whole;

/// The greatest whole number up to which all are exact as `f64`: 2^53 - 1.
pub(super) const MOST_EXACT: i64 = (1 << 53) - 1;

/// A numeric domain as the unit interval.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// What 0 and 1 stand for, on the scale.
    ends: (f64, f64),
    log: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Float { low: f64, high: f64 },
    Int { low: i64, step: i64, last: i64 },
}

impl Axis {
    pub(super) fn float(low: f64, high: f64, log: bool) -> Self {
        Self {
            ends: (on_scale(low, log), on_scale(high, log)),
            log,
            kind: Kind::Float { low, high },
        }
    }

    pub(super) fn int(low: i64, high: i64, step: i64, log: bool) -> Self {
        let step = step.max(1);
        // No more than 2^54 apart where the domain was read.
        let last = high.saturating_sub(low).max(0) / step;
        let half = step as f64 / 2.0;
        let first = low as f64;
        let begin = if log {
            (first - half).max(first / 2.0)
        } else {
            first - half
        };
        let end = (low + last * step) as f64 + half;
        Self {
            ends: (on_scale(begin, log), on_scale(end, log)),
            log,
            kind: Kind::Int { low, step, last },
        }
    }

    /// How many values it has; `None` for a float.
    pub(super) fn len(&self) -> Option<u64> {
        match self.kind {
            Kind::Float { .. } => None,
            Kind::Int { last, .. } => Some(last.unsigned_abs() + 1),
        }
    }

    /// The value at a place of the unit interval.
    pub(super) fn value(&self, place: f64) -> Value {
        let (begin, end) = self.ends;
        let scaled = begin + place * (end - begin);
        let x = if self.log { scaled.exp() } else { scaled };
        match self.kind {
            // Rounding may have gone beyond an end.
            Kind::Float { low, high } => Value::from(x.max(low).min(high)),
            Kind::Int { low, step, .. } => {
                #[allow(clippy::cast_possible_truncation)] // within 2^54, or saturated
                let index = ((x - low as f64) / step as f64).round() as i64;
                self.nth(index)
            }
        }
    }

    /// The value number `index` of whole numbers, from 0; the nearest where there are fewer.
    pub(super) fn nth(&self, index: i64) -> Value {
        match self.kind {
            Kind::Float { low, .. } => Value::from(low),
            Kind::Int { low, step, last } => Value::from(low + index.max(0).min(last) * step),
        }
    }

    /// The place of a number on the unit interval; `None` for what is no number or lies outside.
    pub(super) fn place(&self, value: &Value) -> Option<f64> {
        let x = match self.kind {
            Kind::Float { .. } => value.as_f64()?,
            Kind::Int { .. } => whole(value)? as f64,
        };
        let place = self.unclamped(x);
        // What is off by the last bit is not outside.
        (place > -1e-9 && place < 1.0 + 1e-9).then(|| place.clamp(0.0, 1.0))
    }

    /// The ends of the cell that belongs to the value at a place; `None` for a float.
    pub(super) fn cell(&self, place: f64) -> Option<(f64, f64)> {
        let Kind::Int { step, .. } = self.kind else {
            return None;
        };
        let (x, half) = (self.value(place).as_f64()?, step as f64 / 2.0);
        let begin = self.unclamped(x - half);
        let end = self.unclamped(x + half);
        // NaN is the logarithm of less than nothing: below the first value.
        Some((begin.max(0.0), end.min(1.0)))
    }

    fn unclamped(&self, x: f64) -> f64 {
        let (begin, end) = self.ends;
        (on_scale(x, self.log) - begin) / (end - begin)
    }
}

fn on_scale(x: f64, log: bool) -> f64 {
    if log { x.ln() } else { x }
}
