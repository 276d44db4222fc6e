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

/// The norms of some rows, each in the place of its row; 0 in all other places.
pub(super) fn of_rows(column: &dyn Array, rows: &[u32]) -> Vec<f64> {
    let mut norms = vec![0.0; column.len()];
    if let Some((vectors, values)) = parts(column) {
        for row in rows {
            norms[*row as usize] = of(vectors, values, *row as usize);
        }
    }
    norms
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
        builder.keep(0, None, 3);
        let columns = builder.finish().columns;
        let found = |column: &dyn Array| numbers(column).iter().collect::<Vec<_>>();
        assert_eq!(found(&columns[0]), [Some(5.0), None, Some(2.0)]);
        assert_eq!(found(&columns[0].slice(1, 2)), [None, Some(2.0)]);
        assert_eq!(found(&columns[1]), [None, Some(7.0), None]);
        assert_eq!(found(&columns[2]), [None; 3]);
        assert_eq!(of_rows(&columns[0], &[2]), [0.0, 0.0, 2.0]);
    }
}
