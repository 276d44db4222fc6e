//! Every query of the documentation runs, and finds something where there is something to find.

use driftd::compare::Test;
use driftd::monitor::Limit;
use driftd::settings::{Defaults, LoadOptions};
use sqlx::{AssertSqlSafe, Executor, Row};

use crate::harness::postgres;

/// A small history in which every question of docs/sql.md has an answer.
const HISTORY: &str = include_str!("docs.sql");

/// The SQL blocks of a page with the headings that they stand under.
fn queries(page: &str) -> Vec<(String, String)> {
    let (mut heading, mut block, mut found) = (String::new(), None::<String>, Vec::new());
    for line in page.lines() {
        match (&mut block, line) {
            (None, "```sql") => block = Some(String::new()),
            (Some(_), "```") => found.extend(block.take().map(|sql| (heading.clone(), sql))),
            (Some(sql), line) => *sql += &format!("{line}\n"),
            (None, line) if line.starts_with('#') => heading = line.to_owned(),
            (None, _) => {}
        }
    }
    found
}

#[tokio::test]
async fn every_query_of_docs_sql_finds_something() {
    let db = postgres::fresh().await;
    db.pool.execute(HISTORY).await.unwrap();
    let queries = queries(include_str!("../../docs/sql.md"));
    assert!(queries.len() > 15, "only {} queries found", queries.len());
    for (heading, sql) in queries {
        let rows = sqlx::query(AssertSqlSafe(sql.clone()))
            .fetch_all(&db.pool)
            .await;
        let rows = rows.unwrap_or_else(|error| panic!("{heading}: {error}\n{sql}"));
        assert!(!rows.is_empty(), "{heading}: no rows\n{sql}");
    }
}

/// The same of docs/retraining.md, as a trainer would go through it: what a call answers stands for the
/// variables of the next ones.
#[tokio::test]
async fn every_query_of_docs_retraining_runs_in_its_order() {
    let db = postgres::fresh().await;
    db.pool.execute(HISTORY).await.unwrap();
    let trials = "insert into driftd.retraining_jobs
            (model, reasons, max_attempts, parent_job_id, trial, run_after)
        select 'flight-delay', '[]', 1, job_id, 0, 'infinity' from driftd.retraining_jobs";
    db.pool.execute(trials).await.unwrap();
    let queries = queries(include_str!("../../docs/retraining.md"));
    assert!(queries.len() > 8, "only {} queries found", queries.len());
    let mut variables: Vec<(&str, String)> = Vec::new();
    for (heading, block) in queries {
        if block.contains("fail_job") {
            // The page ends the job twice, which a trainer does not.
            let again = "update driftd.retraining_jobs set state = 'running', finished_at = null
                where state = 'succeeded'";
            db.pool.execute(again).await.unwrap();
        }
        for sql in block
            .split_inclusive(';')
            .filter(|sql| !sql.trim().is_empty())
        {
            let filled = variables.iter().fold(sql.to_owned(), |sql, (name, value)| {
                sql.replace(&format!(":'{name}'"), &format!("'{value}'"))
                    .replace(&format!(":{name}"), value)
            });
            let rows = sqlx::query(AssertSqlSafe(filled.clone()))
                .fetch_all(&db.pool)
                .await;
            let rows = rows.unwrap_or_else(|error| panic!("{heading}: {error}\n{filled}"));
            assert!(!rows.is_empty(), "{heading}: no rows\n{filled}");
            if sql.contains("claim_job") {
                variables.push(("job_id", rows[0].get::<i64, _>("job_id").to_string()));
                variables.push(("attempt", rows[0].get::<i32, _>("attempt").to_string()));
                let token: uuid::Uuid = rows[0].get("lease_token");
                variables.push(("lease_token", token.to_string()));
            } else if sql.contains("build_id") && sql.contains("request_baseline") {
                variables.push(("build_id", rows[0].get::<i64, _>("build_id").to_string()));
            }
        }
    }
    assert_eq!(variables.len(), 4);
}

/// `docs/statistics.md` says of every test its usual limit, and whether it decides by default.
#[test]
fn the_table_of_tests_is_that_of_the_settings() {
    let text = include_str!("../../docs/statistics.md");
    let defaults = Defaults::load(LoadOptions::<Vec<(String, String)>>::default()).unwrap();
    for test in Test::ALL.iter().filter(|test| **test != Test::Rule) {
        let name = format!("`{test}`");
        let row = text
            .lines()
            .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
            .find(|cells| cells.len() == 7 && cells[1].split(", ").any(|cell| cell == name))
            .unwrap_or_else(|| panic!("no row for {test}"));
        let limit: f64 = row[4].parse().unwrap();
        assert!((limit - Limit::usual(*test).effect).abs() < 1e-12, "{test}");
        let mut tests = defaults.judging.tests.iter();
        let decides = tests.any(|limit| limit.test == *test && limit.decides);
        assert_eq!(row[5] == "yes", decides, "{test}");
    }
}

/// `docs/reliability.md` proves each line by tests: those it names are there.
#[test]
fn every_test_that_reliability_names_exists() {
    let text = include_str!("../../docs/reliability.md");
    let names = text.split('`').skip(1).step_by(2);
    let tests: Vec<&str> = names.filter(|name| is_test_name(name)).collect();
    assert!(tests.len() > 40, "only {} tests are named", tests.len());
    for name in tests {
        let (place, test) = name.rsplit_once("::").unwrap();
        let path = place.replace("::", "/");
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = [
            format!("tests/it/{path}.rs"),
            format!("src/{path}.rs"),
            format!("src/{path}/mod.rs"),
            format!("src/{path}/tests.rs"),
        ];
        let found = files.iter().any(|file| {
            std::fs::read_to_string(root.join(file))
                .is_ok_and(|source| source.contains(&format!("fn {test}(")))
        });
        assert!(found, "there is no test {name}");
    }
}

/// `module::test`, as opposed to a type or an SQL name.
fn is_test_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':';
    name.contains("::") && name.chars().all(word)
}
