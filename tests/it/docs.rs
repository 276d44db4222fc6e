//! Every query of the documentation runs, and finds something where there is something to find.

use sqlx::{AssertSqlSafe, Executor};

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
