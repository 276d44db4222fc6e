//! One request, and what is known of it afterwards. No redirect is followed, no proxy is used, an
//! answer is read up to 1 MiB, and nothing that is told about it holds more of the URL than its host.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use serde_json::Value;
use sha2::Sha256;

use super::destination::{Forbidden, Guard};
use super::template::{Template, Values, text};
use super::{Call, Error, Handover};

/// An answer is read no further.
const MAX_BODY: usize = 1 << 20;
/// So much of an answer is told.
const EXCERPT: usize = 500;
/// A longer wait that a server asks for is not waited out in one go.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Headers whose values are no secrets.
const HARMLESS: [&str; 5] = [
    "accept",
    "content-type",
    "user-agent",
    "x-github-api-version",
    "idempotency-key",
];

/// What a server said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) host: String,
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    /// `None`: longer than is read.
    body: Option<Vec<u8>>,
}

impl Answer {
    /// The document in it.
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(self.body.as_deref()?).ok()
    }

    /// Who answered what.
    pub(super) fn told(&self) -> String {
        match self.body {
            Some(_) => format!("{} answered {}", self.host, self.status.as_u16()),
            None => format!(
                "{} answered {} with more than {MAX_BODY} bytes",
                self.host,
                self.status.as_u16()
            ),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The address is one that may not be connected to; nothing was sent.
    Forbidden(String),
    /// Nothing was sent.
    Unsent(String),
    /// Something may have been received.
    Unanswered(String),
}

impl Failure {
    pub(super) fn told(&self) -> &str {
        let (Self::Forbidden(why) | Self::Unsent(why) | Self::Unanswered(why)) = self;
        why
    }
}

/// Sends the requests of one hand-over.
#[derive(Debug)]
pub(super) struct Sender<'a> {
    handover: &'a Handover,
    https: (Client, Guard),
    http: (Client, Guard),
}

impl<'a> Sender<'a> {
    /// # Errors
    /// When there can be no client, such as for want of certificates.
    pub(super) fn new(handover: &'a Handover) -> Result<Self, Error> {
        let tls = tls(handover)?;
        let client = |public| {
            let guard = Guard::new(public, &handover.allow_private);
            let client = client(handover, tls.clone(), guard.clone());
            client.map(|client| (client, guard))
        };
        Ok(Self {
            handover,
            https: client(true)?,
            http: client(handover.allow_http)?,
        })
    }

    /// Sends a request; `key` makes repetitions of it one.
    pub(super) async fn send(
        &self,
        call: &Call,
        values: &Values,
        key: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Answer, Failure> {
        let url = Url::parse(&call.url.render(values));
        let url = url.map_err(|_| Failure::Unsent("the request's URL is none".to_owned()))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let (client, guard) = match url.scheme() {
            "https" => &self.https,
            _ => &self.http,
        };
        let forbidden = |error: Forbidden| Failure::Forbidden(format!("{host}: {error}"));
        guard.check(&url).map_err(forbidden)?;
        let body = call.body.as_ref().map(|body| body.render(values));
        let headers = self.headers(values, key, body.as_deref(), now)?;
        let request = client.request(call.method.clone(), url).headers(headers);
        let request = match body {
            Some(body) => request.body(body),
            None => request,
        };
        let response = request.send().await.map_err(|e| failure(&host, &e))?;
        read(host, response, now).await
    }

    fn headers(
        &self,
        values: &Values,
        key: Option<&str>,
        body: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(token) = &self.handover.token {
            let token = token.read().map_err(Failure::Unsent)?;
            let bearer = format!("Bearer {}", token.expose_secret());
            headers.insert(AUTHORIZATION, value_of(&bearer)?);
        }
        for (name, template) in &self.handover.headers {
            headers.insert(name.clone(), value_of(&template.render(values))?);
        }
        if let Some(key) = key {
            headers.insert("idempotency-key", value_of(key)?);
        }
        if let Some(signing_key) = &self.handover.signing_key {
            let seconds = now.timestamp().to_string();
            let secret = signing_key.expose_secret().as_bytes();
            let signature = signature(secret, &seconds, body.unwrap_or_default());
            headers.insert("x-driftd-timestamp", value_of(&seconds)?);
            headers.insert("x-driftd-signature", value_of(&signature)?);
        }
        Ok(headers)
    }

    /// The beginning of what was answered, without the secrets that it may repeat.
    pub(super) fn excerpt(&self, answer: &Answer, values: &Values) -> String {
        let body = answer.body.as_deref().unwrap_or_default();
        let mut told = String::from_utf8_lossy(body).into_owned();
        for secret in self.secrets(values) {
            told = told.replace(&secret, "[redacted]");
        }
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        told.chars().take(EXCERPT).map(plain).collect()
    }

    fn secrets(&self, values: &Values) -> Vec<String> {
        let secret = |(name, template): &(HeaderName, Template)| {
            (!HARMLESS.contains(&name.as_str())).then(|| template.render(values))
        };
        let mut secrets: Vec<String> = self.handover.headers.iter().filter_map(secret).collect();
        // `Basic dXNlcjpw` may come back without its first word.
        let words: Vec<String> = secrets
            .iter()
            .filter_map(|value| value.rsplit_once(' ').map(|(_, word)| word.to_owned()))
            .collect();
        secrets.extend(words);
        let token = self.handover.token.as_ref().and_then(|t| t.read().ok());
        let keys = token.iter().chain(&self.handover.signing_key);
        secrets.extend(keys.map(|key| key.expose_secret().to_owned()));
        secrets.extend(values.get("lease_token").map(text));
        secrets.retain(|secret| secret.len() >= 4);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets
    }
}

/// Whether a later answer may be another one.
pub(super) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// A word for metrics.
pub(super) fn outcome(sent: &Result<Answer, Failure>) -> &'static str {
    match sent {
        Ok(answer) => match answer.status.as_u16() {
            200..300 => "ok",
            409 => "conflict",
            429 => "throttled",
            500.. => "server_error",
            _ => "refused",
        },
        Err(Failure::Forbidden(_)) => "forbidden_address",
        Err(Failure::Unsent(_)) => "unreachable",
        Err(Failure::Unanswered(_)) => "unanswered",
    }
}

/// `v1=` and the HMAC-SHA256 of `timestamp.body` in hexadecimal.
fn signature(secret: &[u8], timestamp: &str, body: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else {
        return String::new(); // HMAC takes keys of every length
    };
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    format!("v1={}", hex::encode(mac.finalize().into_bytes()))
}

fn value_of(text: &str) -> Result<HeaderValue, Failure> {
    let value = HeaderValue::from_bytes(text.as_bytes());
    let mut value =
        value.map_err(|_| Failure::Unsent("a header with control characters".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn client(handover: &Handover, tls: ClientConfig, guard: Guard) -> Result<Client, Error> {
    let built = Client::builder()
        .user_agent(concat!("driftd/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .dns_resolver(Arc::new(guard))
        .tls_backend_preconfigured(tls)
        .connect_timeout(handover.timeout)
        .timeout(handover.timeout)
        .build();
    built.map_err(|error| Error::Client(error.without_url().to_string()))
}

/// The provider that Postgres has as well; the certificates of the web, or those of `ca_file` alone.
fn tls(handover: &Handover) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    match &handover.certificates {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(own) => {
            let (usable, _) = roots.add_parsable_certificates(own.iter().cloned());
            if usable == 0 {
                return Err(Error::Client("ca_file holds no usable certificate".into()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|error| Error::Client(error.to_string()))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

/// What went wrong, by its deepest cause: those above it tell URLs.
fn failure(host: &str, error: &reqwest::Error) -> Failure {
    if let Some(forbidden) = causes(error).find_map(|cause| cause.downcast_ref::<Forbidden>()) {
        return Failure::Forbidden(format!("{host}: {forbidden}"));
    }
    let cause = match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => causes(error)
            .last()
            .map_or_else(|| "the request failed".to_owned(), ToString::to_string),
    };
    let told = format!("{host}: {cause}");
    match error.is_connect() {
        true => Failure::Unsent(told),
        false => Failure::Unanswered(told),
    }
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

async fn read(
    host: String,
    mut response: reqwest::Response,
    now: DateTime<Utc>,
) -> Result<Answer, Failure> {
    let (status, retry_after) = (response.status(), retry_after(response.headers(), now));
    let mut body = Some(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| {
        let told = failure(&host, &error).told().to_owned();
        Failure::Unanswered(told) // the status came, so the request was received
    })? {
        body = body.filter(|body| body.len() + chunk.len() <= MAX_BODY);
        match &mut body {
            Some(body) => body.extend_from_slice(&chunk),
            None => break,
        }
    }
    Ok(Answer {
        host,
        status,
        retry_after,
        body,
    })
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers
        .get(reqwest::header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = DateTime::parse_from_rfc2822(text).ok()?;
            (date.with_timezone(&Utc) - now)
                .to_std()
                .unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_any_other_hmac() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let expected = "49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";
        let signed = signature(b"secret", "1700000000", "{\"a\":1}");
        assert_eq!(signed, format!("v1={expected}"));
    }

    #[test]
    fn waits_are_seconds_or_a_date_and_never_endless() {
        let now = DateTime::parse_from_rfc3339("2026-11-27T10:00:00Z")
            .unwrap()
            .to_utc();
        let wait = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_static(text));
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("Fri, 27 Nov 2026 10:00:30 GMT"), Some(30));
        assert_eq!(wait("Fri, 27 Nov 2026 09:00:00 GMT"), Some(0));
        assert_eq!(wait("999999999"), Some(3600));
        assert_eq!(wait("soon"), None);
    }
}
