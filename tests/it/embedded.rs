//! The private Postgres: it starts, it stops, and nothing of it stays.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use driftd::embedded::postgres::{Options, Postgres};
use driftd::store;
use secrecy::SecretString;

use crate::harness::postgres;

fn socket_dir(server: &Postgres) -> PathBuf {
    PathBuf::from(server.url().split_once("?host=").unwrap().1)
}

async fn answer(url: &str) -> i32 {
    let pool = store::connect(&SecretString::from(url.to_owned()), 1)
        .await
        .unwrap();
    let answer = sqlx::query_scalar("select 42")
        .fetch_one(&pool)
        .await
        .unwrap();
    pool.close().await;
    answer
}

#[tokio::test]
async fn a_temporary_server_leaves_nothing_behind() {
    let mut server = Postgres::start(Options::default()).unwrap();
    let dir = socket_dir(&server);
    assert_eq!(answer(&server.url()).await, 42);
    let mode = dir.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{mode:o}");
    server.stop();
    assert!(!dir.exists(), "{} is still there", dir.display());
}

#[tokio::test]
async fn kept_data_is_found_again_and_a_second_server_on_it_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options {
        data: Some(parent.path().join("db")),
        durable: true,
        bin: None,
    };
    let server = Postgres::start(options.clone()).unwrap();
    let pool = store::connect(&SecretString::from(server.url()), 1)
        .await
        .unwrap();
    sqlx::query("create table kept as select 7 as n")
        .execute(&pool)
        .await
        .unwrap();

    let second = Postgres::start(options.clone()).unwrap_err().to_string();
    assert!(second.contains("postmaster.pid"), "{second}");
    assert_eq!(answer(&server.url()).await, 42, "the first one goes on");

    pool.close().await;
    drop(server);
    let server = Postgres::start(options).unwrap();
    let pool = store::connect(&SecretString::from(server.url()), 1)
        .await
        .unwrap();
    let n: i32 = sqlx::query_scalar("select n from kept")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(n, 7);
}

#[tokio::test]
async fn a_long_path_gets_a_short_socket() {
    let parent = tempfile::tempdir().unwrap();
    std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let data = parent.path().join("x".repeat(120));
    let server = Postgres::start(Options {
        data: Some(data),
        ..Options::default()
    })
    .unwrap();
    assert_eq!(answer(&server.url()).await, 42);
}

#[test]
fn a_directory_that_the_server_cannot_enter_is_named() {
    let parent = tempfile::tempdir().unwrap(); // mode 0700, this user's
    let data = parent.path().join("db");
    let root = std::fs::metadata(parent.path()).map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    if root.unwrap() != 0 {
        return; // its own user can enter it
    }
    let error = Postgres::start(Options {
        data: Some(data),
        ..Options::default()
    })
    .unwrap_err();
    let closed = parent.path().display().to_string();
    assert!(error.to_string().contains(&closed), "{error}");
}

#[tokio::test]
async fn databases_of_two_tests_are_apart() {
    let (one, two) = tokio::join!(postgres::fresh(), postgres::fresh());
    let insert = sqlx::query("insert into driftd.models (model) values ('m')");
    insert.execute(&one.pool).await.unwrap();
    let count = "select count(*) from driftd.models";
    let count: i64 = sqlx::query_scalar(count)
        .fetch_one(&two.pool)
        .await
        .unwrap();
    assert_eq!(count, 0);
    assert!(Path::new(&socket_dir(postgres::server())).exists());
}
