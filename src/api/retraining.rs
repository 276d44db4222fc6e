//! `POST /v1/retraining`: ask for a model to be retrained, as `driftd jobs request` does.

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Shared;
use crate::store::{Error, triggers};

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The model.
    model: String,
    /// Why; shown with the job.
    reason: Option<String>,
    /// Who asks.
    requested_by: Option<String>,
}

pub(super) async fn request(
    State(shared): State<Shared>,
    headers: HeaderMap,
    asked: Result<Json<Asked>, JsonRejection>,
) -> Response {
    if let Err((status, why)) = may_ask(shared.token.as_ref(), &headers) {
        return told(status, why);
    }
    let Json(asked) = match asked {
        Ok(asked) => asked,
        Err(wrong) => return told(wrong.status(), &wrong.body_text()),
    };
    let by = asked.requested_by.as_deref().unwrap_or("HTTP");
    match triggers::request(&shared.pool, &asked.model, asked.reason.as_deref(), by).await {
        Ok(fired) => (StatusCode::CREATED, Json(json!(fired))).into_response(),
        Err(Error::Refused { message, .. }) => told(StatusCode::BAD_REQUEST, &message),
        Err(error) => {
            tracing::warn!(
                error = error.chain(),
                "cannot take a request for retraining"
            );
            told(
                StatusCode::SERVICE_UNAVAILABLE,
                "the database cannot be asked now",
            )
        }
    }
}

/// Whoever knows the token. Without one nobody may: what changes something is never open to all.
fn may_ask(
    token: Option<&SecretString>,
    headers: &HeaderMap,
) -> Result<(), (StatusCode, &'static str)> {
    let Some(token) = token else {
        let why = "requests over HTTP need a token: set service.token or service.token_file";
        return Err((StatusCode::FORBIDDEN, why));
    };
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    // Digests are compared: how long that takes says nothing of the token.
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    match given.is_some_and(|given| digest(given) == digest(token.expose_secret())) {
        true => Ok(()),
        false => Err((
            StatusCode::UNAUTHORIZED,
            "expected the header Authorization: Bearer with the token of service.token",
        )),
    }
}

fn told(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}
