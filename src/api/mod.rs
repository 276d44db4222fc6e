//! What others ask over HTTP: `/healthz` (the process answers), `/readyz` (it can do its work, or
//! why not), `/metrics`; and, with a token, `POST /v1/retraining`.

mod readiness;
mod retraining;
mod scrape;

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use readiness::{Condition, Readiness};

/// No answer takes longer: a probe that waits for a stuck database must not pile up.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A request that is longer, in bytes, is refused.
const LONGEST_BODY: usize = 65_536;

/// After the stop, requests in hand have so long to end.
const GRACE: Duration = Duration::from_secs(2);

/// Why the API ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listener failed.
    #[error("cannot serve HTTP: {0}")]
    Serve(#[from] std::io::Error),
}

#[derive(Clone)]
struct Shared {
    readiness: Readiness,
    pool: PgPool,
    metrics: PrometheusHandle,
    token: Option<SecretString>,
}

/// Serves until told to stop.
///
/// # Errors
/// When the listener fails.
pub async fn run(
    listener: TcpListener,
    readiness: Readiness,
    pool: PgPool,
    metrics: PrometheusHandle,
    token: Option<SecretString>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let app = router(Shared {
        readiness,
        pool,
        metrics,
        token,
    });
    let stopped = stop.clone();
    let serve = axum::serve(listener, app).with_graceful_shutdown(stopped.cancelled_owned());
    // A client that keeps its connection open must not hold the shutdown up.
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = serve.into_future() => Ok(served?),
        () = overdue => Ok(()),
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/v1/retraining", post(retraining::request))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(middleware::from_fn(in_time))
        .with_state(shared)
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let conditions = shared.readiness.conditions();
    let ready = conditions.iter().all(|condition| condition.ready);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({ "ready": ready, "conditions": conditions })),
    )
        .into_response()
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    // What the database cannot tell is left as it was: the rest is worth having.
    if let Err(error) = scrape::refresh(&shared.pool).await {
        tracing::debug!(%error, "cannot count episodes and jobs for /metrics");
        crate::telemetry::metrics::postgres_errors("scrape", 1);
    }
    shared.metrics.run_upkeep();
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, shared.metrics.render()).into_response()
}

async fn not_found(uri: Uri) -> Response {
    let known = ["/healthz", "/readyz", "/metrics", "/v1/retraining"];
    let body = json!({ "error": format!("nothing at {}", uri.path()), "known": known });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let right = match uri.path() {
        "/v1/retraining" => "POST",
        _ => "GET and HEAD",
    };
    let error = format!("{} does not take {method}, only {right}", uri.path());
    (
        StatusCode::METHOD_NOT_ALLOWED,
        Json(json!({ "error": error })),
    )
        .into_response()
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let body = json!({ "error": format!("no answer within {} s", TIMEOUT.as_secs()) });
            (StatusCode::GATEWAY_TIMEOUT, Json(body)).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
