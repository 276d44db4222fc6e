use super::*;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

struct Running {
    address: std::net::SocketAddr,
    readiness: Readiness,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), Error>>,
}

/// Without a database: nothing listens at the pool's address, and nothing is asked until /metrics.
async fn running() -> Running {
    running_with(None).await
}

async fn running_with(token: Option<&str>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let readiness = Readiness::new(&["postgres", "kafka"]);
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(50))
        .connect_lazy("postgres://nobody@127.0.0.1:1/none")
        .unwrap();
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(run(
        listener,
        readiness.clone(),
        pool,
        metrics,
        token.map(SecretString::from),
        stop.clone(),
    ));
    Running {
        address,
        readiness,
        stop,
        tasks,
    }
}

async fn ask(address: std::net::SocketAddr, method: &str, path: &str) -> (u16, String) {
    send(address, &format!("{method} {path}"), "", "").await
}

/// Asks for retraining, with these headers.
async fn post(address: std::net::SocketAddr, headers: &str, body: &str) -> (u16, String) {
    let length = format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\n{headers}",
        body.len()
    );
    send(address, "POST /v1/retraining", &length, body).await
}

async fn send(
    address: std::net::SocketAddr,
    line: &str,
    headers: &str,
    body: &str,
) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

#[tokio::test]
async fn answers_what_it_knows() {
    let mut api = running().await;
    assert_eq!(
        ask(api.address, "GET", "/healthz").await,
        (200, "ok\n".into())
    );
    let (status, body) = ask(api.address, "GET", "/readyz").await;
    assert_eq!(status, 503);
    assert!(
        body.contains("\"ready\":false") && body.contains("not heard of yet"),
        "{body}"
    );
    api.readiness.ready("kafka");
    api.readiness.ready("postgres");
    let (status, body) = ask(api.address, "GET", "/readyz").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        ask(api.address, "GET", "/metrics").await.0,
        200,
        "without Postgres too"
    );
    let (status, body) = ask(api.address, "GET", "/nothing").await;
    assert!(status == 404 && body.contains("/readyz"), "{body}");
    let (status, body) = ask(api.address, "POST", "/healthz").await;
    assert!(
        status == 405 && body.contains("does not take POST"),
        "{body}"
    );
    api.stop.cancel();
    api.tasks.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_kept_open_does_not_hold_the_shutdown_up() {
    let mut api = running().await;
    let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
    let whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(whole).await.unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    // Half of the next request: the connection is neither idle nor done.
    stream.write_all(&whole[..20]).await.unwrap();
    api.stop.cancel();
    api.tasks.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_request_for_retraining_needs_the_token_and_makes_sense() {
    let api = running().await;
    let (status, body) = post(api.address, "", "{\"model\": \"m\"}").await;
    assert!(
        status == 403 && body.contains("service.token"),
        "{status} {body}"
    );
    let api = running_with(Some("secret")).await;
    for headers in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: secret\r\n",
    ] {
        let (status, body) = post(api.address, headers, "{\"model\": \"m\"}").await;
        assert!(status == 401 && !body.contains("secret"), "{status} {body}");
    }
    let right = "Authorization: Bearer secret\r\n";
    for (body, status, said) in [
        ("", 400, "EOF"),
        ("{\"model\": 7}", 422, "model"),
        (
            "{\"model\": \"m\", \"why\": \"x\"}",
            422,
            "unknown field `why`",
        ),
        (
            "{\"model\": \"m\"}",
            503,
            "the database cannot be asked now",
        ),
    ] {
        let (found, answer) = post(api.address, right, body).await;
        assert!(
            found == status && answer.contains(said),
            "{body}: {found} {answer}"
        );
    }
    let long = format!("{{\"model\": \"{}\"}}", "m".repeat(70_000));
    assert_eq!(post(api.address, right, &long).await.0, 413);
    let (status, body) = ask(api.address, "GET", "/v1/retraining").await;
    assert!(
        status == 405 && body.contains("only POST"),
        "{status} {body}"
    );
}
