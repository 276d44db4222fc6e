//! Which columns of the training data become features, and what each of them is.

use std::collections::HashMap;

use arrow::datatypes::DataType;

use super::import::{Error, Request};
use super::kinds::{self, Column, Texts};
use super::read::Files;
use crate::batch::MAX_DIMENSION;
use crate::decide::verdict::{JOINT, ROWS};
use crate::monitor::Kind;

/// Where the column with the event time is, if one is named.
pub(super) fn time_index(request: &Request, files: &Files) -> Result<Option<usize>, Error> {
    let Some(name) = &request.time_column else {
        return Ok(None);
    };
    files
        .schema()
        .index_of(name)
        .map(Some)
        .map_err(|_| no_column(files, name, "--time"))
}

fn no_column(files: &Files, column: &str, option: &'static str) -> Error {
    Error::NoColumn {
        column: column.into(),
        option,
        found: names(files),
    }
}

fn names(files: &Files) -> String {
    let fields = files.schema().fields().iter();
    let names: Vec<&str> = fields.map(|field| field.name().as_str()).collect();
    names.join(", ")
}

/// The columns that become features, each with its kind. `progress` is called with how many rows
/// more were read to tell.
pub(super) fn choose(
    request: &Request,
    files: &Files,
    progress: &mut impl FnMut(u64),
) -> Result<Vec<Column>, Error> {
    settle_kinds(files, candidates(request, files)?, progress)
}

/// A column that becomes a feature.
struct Candidate {
    index: usize,
    name: String,
    /// What its type or the user speaks for; unknown for texts until they are read.
    kind: Option<Kind>,
    plain_numbers: bool,
    data_type: DataType,
}

/// The columns that become features. An option that names a column there is not is refused.
fn candidates(request: &Request, files: &Files) -> Result<Vec<Candidate>, Error> {
    let named = [
        (&request.features, "--features"),
        (&request.exclude, "--exclude"),
    ];
    for (names, option) in named {
        if let Some(name) = names
            .iter()
            .find(|name| files.schema().index_of(name).is_err())
        {
            return Err(no_column(files, name, option));
        }
    }
    if let Some(name) = request
        .kinds
        .keys()
        .find(|name| files.schema().index_of(name).is_err())
    {
        return Err(no_column(files, name, "named with a kind"));
    }
    let mut found = Vec::new();
    for (index, field) in files.schema().fields().iter().enumerate() {
        let name = field.name();
        let wanted = request.features.is_empty() || request.features.contains(name);
        let is_time = request.time_column.as_deref() == Some(name);
        if !wanted || request.exclude.contains(name) || is_time {
            continue;
        }
        check_name(name, files)?;
        let inferred = kinds::of_type(field.data_type()).map_err(|detail| Error::Column {
            column: name.clone(),
            detail,
        })?;
        let kind = request.kinds.get(name).copied().or(inferred);
        if let Some(kind) = kind {
            kinds::check(field.data_type(), kind).map_err(|detail| Error::Column {
                column: name.clone(),
                detail,
            })?;
        }
        found.push(Candidate {
            index,
            name: name.clone(),
            kind,
            plain_numbers: matches!(inferred, Some(Kind::Numeric | Kind::Boolean)),
            data_type: field.data_type().clone(),
        });
    }
    if found.is_empty() {
        return Err(Error::NoFeatures(names(files)));
    }
    Ok(found)
}

/// A feature's name is its own, and none that driftd itself writes beside features.
fn check_name(name: &str, files: &Files) -> Result<(), Error> {
    let fields = files.schema().fields().iter();
    let detail = if fields.filter(|field| field.name() == name).count() > 1 {
        "there are two columns of this name"
    } else if [JOINT, ROWS].contains(&name) {
        "driftd needs this name itself; rename it or leave it out with --exclude"
    } else {
        return Ok(());
    };
    Err(Error::Column {
        column: name.into(),
        detail: detail.into(),
    })
}

/// Texts are looked at in all rows before their column's kind is settled.
fn settle_kinds(
    files: &Files,
    candidates: Vec<Candidate>,
    progress: &mut impl FnMut(u64),
) -> Result<Vec<Column>, Error> {
    let mut texts: HashMap<usize, Texts> = candidates
        .iter()
        .filter(|candidate| candidate.kind.is_none())
        .map(|candidate| (candidate.index, Texts::default()))
        .collect();
    if !texts.is_empty() {
        files.for_each(|batch| {
            progress(batch.num_rows() as u64);
            for (index, texts) in &mut texts {
                texts.see(batch.column(*index))?;
            }
            Ok::<(), Error>(())
        })?;
    }
    let dimensions = dimensions(files, &candidates)?;
    let column = |candidate: Candidate| {
        let seen = texts.get(&candidate.index).map(|texts| texts.kind());
        Column {
            name: candidate.name,
            kind: candidate.kind.or(seen).unwrap_or(Kind::Categorical),
            // A CSV says nothing of types: numbers and booleans as labels are as good as texts.
            plain_numbers: candidate.plain_numbers
                || candidate.kind.or(seen) == Some(Kind::Boolean),
            dimension: dimensions.get(&candidate.index).copied().unwrap_or(0),
            index: candidate.index,
        }
    };
    Ok(candidates.into_iter().map(column).collect())
}

/// How many numbers the embeddings have, by column: what the type says, or else the first row that
/// holds one.
fn dimensions(files: &Files, candidates: &[Candidate]) -> Result<HashMap<usize, usize>, Error> {
    let mut known = HashMap::new();
    let mut open: Vec<&Candidate> = Vec::new();
    for candidate in candidates {
        match candidate.data_type {
            _ if candidate.kind != Some(Kind::Embedding) => {}
            DataType::FixedSizeList(_, width) => {
                known.insert(candidate.index, usize::try_from(width).unwrap_or(0));
            }
            _ => open.push(candidate),
        }
    }
    for batch in files.batches() {
        if open.is_empty() {
            break;
        }
        let batch = batch?;
        for candidate in &open {
            if let Some(dimension) = kinds::dimension(batch.column(candidate.index))? {
                known.insert(candidate.index, dimension);
            }
        }
        open.retain(|candidate| !known.contains_key(&candidate.index));
    }
    let too_long = |candidate: &&Candidate| {
        let dimension = known.get(&candidate.index);
        dimension.is_some_and(|dimension| !(1..=MAX_DIMENSION).contains(dimension))
    };
    let refused = |candidate: &Candidate, detail: String| Error::Column {
        column: candidate.name.clone(),
        detail,
    };
    if let Some(empty) = open.first() {
        let detail = "not one of its rows holds a list of numbers; leave it out with --exclude";
        return Err(refused(empty, detail.into()));
    }
    if let Some(long) = candidates.iter().find(too_long) {
        let detail = format!("an embedding has 1 to {MAX_DIMENSION} numbers");
        return Err(refused(long, detail));
    }
    Ok(known)
}
