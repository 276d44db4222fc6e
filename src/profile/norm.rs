//! What an embedding is profiled by: the Euclidean norm of each row's vector.
//!
//! The norm is one number a row, so that the grid and every test on numbers work on it as they do
//! on any other. It sees a model that was exchanged, a normalisation that was lost, vectors of
//! zeros. It does not see a change of direction: vectors of length one have norm one whatever they
//! say. For that the row sample keeps the vectors whole, and the tests on many features together
//! read them from there.
//!
//! A vector with a number that is not finite, or whose norm is beyond a double, is no value (see
//! [`Cell::of_vector`](crate::batch::Cell::of_vector)): it is counted, and has no norm.

use arrow::array::{Array, AsArray, FixedSizeListArray, Float64Array};
use arrow::datatypes::Float64Type;

use crate::batch::norm;

/// The numbers of a column: its own, or the norms of its vectors; null where there is no value. A
/// column that holds neither has none.
pub fn numbers(column: &dyn Array) -> Float64Array {
    if let Some(numbers) = column.as_primitive_opt::<Float64Type>() {
        return numbers.clone();
    }
    let Some((vectors, values)) = parts(column) else {
        return Float64Array::new_null(column.len());
    };
    let of_row = |row| vectors.is_valid(row).then(|| of(vectors, values, row));
    (0..vectors.len()).map(of_row).collect()
}

fn parts(column: &dyn Array) -> Option<(&FixedSizeListArray, &[f64])> {
    let vectors = column.as_fixed_size_list_opt()?;
    let values = vectors.values().as_primitive_opt::<Float64Type>()?;
    Some((vectors, values.values()))
}

fn of(vectors: &FixedSizeListArray, values: &[f64], row: usize) -> f64 {
    let width = usize::try_from(vectors.value_length()).unwrap_or(0);
    norm(&values[row * width..(row + 1) * width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Builder, Cell, Shape};

    #[test]
    fn numbers_are_values_or_norms_also_of_a_part_of_a_column() {
        let mut builder = Builder::new(&[Shape::Vector(2), Shape::Number, Shape::Text], 4);
        builder.vector(0, 0, &[3.0, 4.0]);
        builder.vector(0, 2, &[0.0, -2.0]);
        builder.number(1, 1, 7.0, Cell::Ok);
        builder.keep(0, 3);
        let batch = builder.finish();
        let columns = [0, 1, 2].map(|column| batch.array(column));
        let found = |column: &dyn Array| numbers(column).iter().collect::<Vec<_>>();
        assert_eq!(found(&columns[0]), [Some(5.0), None, Some(2.0)]);
        assert_eq!(found(&columns[0].slice(1, 2)), [None, Some(2.0)]);
        assert_eq!(found(&columns[1]), [None, Some(7.0), None]);
        assert_eq!(found(&columns[2]), [None; 3]);
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        norms: Vec<Norm>,
        sides: Vec<Sides>,
    }

    #[derive(serde::Deserialize)]
    struct Norm {
        vector: Vec<f64>,
        norm: f64,
    }

    #[derive(serde::Deserialize)]
    struct Sides {
        name: String,
        reference: Vec<Vec<f64>>,
        window: Vec<Vec<f64>>,
        ks: f64,
        p: f64,
    }

    fn golden() -> Golden {
        let text = include_str!("../../tests/reference/embedding.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn norms_are_right_to_the_last_digits_at_every_scale() {
        let mut worst = 0.0f64;
        let all = golden().norms;
        assert_eq!(all.len(), 41);
        for Norm {
            vector,
            norm: exact,
        } in all
        {
            let found = norm(&vector);
            if exact.is_infinite() {
                assert_eq!(found.to_bits(), exact.to_bits());
                continue;
            }
            // Of numbers below 2^-1022 the last digits are few.
            let off = (found - exact).abs() / exact.max(f64::MIN_POSITIVE);
            worst = worst.max(off);
        }
        assert!(worst <= 5e-16, "{worst:e}");
    }

    #[test]
    fn sides_are_compared_by_norms_as_scipy_does() {
        for sides in golden().sides {
            let norms = |vectors: &[Vec<f64>]| {
                let mut norms: Vec<f64> = vectors.iter().map(|vector| norm(vector)).collect();
                norms.sort_by(f64::total_cmp);
                norms
            };
            let (reference, window) = (norms(&sides.reference), norms(&sides.window));
            let outcome = crate::compare::ks::exact(&reference, &window).unwrap();
            let (name, p) = (sides.name, outcome.p_value.unwrap());
            assert!((outcome.statistic - sides.ks).abs() <= 1e-12, "{name}");
            assert!((p - sides.p).abs() <= 1e-9 * sides.p, "{name}: {p}");
        }
    }
}
