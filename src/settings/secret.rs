//! Secrets: given by `${VAR}`, by a variable of their own or as a file (`*_file`); never shown.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::field::Field;
use super::file::{Node, Origin, Table, Value};
use super::read::Section;
use super::shown_properties::SHOWN;

/// What a message or a dump shows instead of a secret.
pub(super) const REDACTED: &str = "[redacted]";

/// Far beyond any password or certificate chain.
const MAX_BYTES: u64 = 1 << 20;

/// A secret that is given as `key` or as `key_file`; where both are, the higher layer wins.
pub(super) fn secret(
    section: &Section<'_>,
    key: &'static str,
    key_file: &'static str,
) -> Option<SecretString> {
    match (section.field(key), section.field(key_file)) {
        (Some(value), Some(file)) => match file.origin().layer().cmp(&value.origin().layer()) {
            std::cmp::Ordering::Greater => from_file(&file),
            std::cmp::Ordering::Less => plain(&value),
            std::cmp::Ordering::Equal => {
                file.fault(
                    format!("{} is given as well", value.key()),
                    "give one of the two",
                );
                None
            }
        },
        (Some(value), None) => plain(&value),
        (None, Some(file)) => from_file(&file),
        (None, None) => None,
    }
}

/// Whether a secret was given in a place that not everybody can read; notes it if not.
pub(super) fn not_a_flag(field: &Field<'_>) -> bool {
    let flag = matches!(field.origin(), Origin::Flag(_));
    if flag {
        let right = "use a file or a variable: everybody on the machine can read flags";
        field.fault("a secret on the command line", right);
    }
    !flag
}

fn plain(field: &Field<'_>) -> Option<SecretString> {
    match field.as_text() {
        Some("") => {
            field.fault("empty", "give it a value or leave it out");
            None
        }
        Some(text) => Some(text.into()),
        None => {
            field.fault("not a text", "expected a text in quotes");
            None
        }
    }
}

/// Reads a secret's file; a trailing line break does not belong to it.
pub(super) fn from_file(field: &Field<'_>) -> Option<SecretString> {
    let path = field.text("expected the path of a file that holds the secret")?;
    let path = beside(field.origin(), Path::new(path));
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) => {
            let right = "expected a file that driftd may read and that holds nothing else";
            field.fault(format!("cannot read {}: {error}", path.display()), right);
            return None;
        }
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        field.fault(
            format!("{} is empty", path.display()),
            "expected the secret in it",
        );
        return None;
    }
    Some(text.into())
}

fn read(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_BYTES {
        return Err(std::io::Error::other("more than 1 MiB"));
    }
    std::fs::read_to_string(path)
}

/// A relative path in a file is meant from that file's folder.
pub(super) fn beside(origin: &Origin, path: &Path) -> PathBuf {
    match origin {
        Origin::File { path: file, .. } => Path::new(file.as_ref())
            .parent()
            .unwrap_or(Path::new(""))
            .join(path),
        _ => path.to_owned(),
    }
}

/// Whether the value of a librdkafka property may be shown: it is known to hold no secret, or is the
/// path of a file that holds it.
pub(super) fn may_be_shown(property: &str) -> bool {
    property.ends_with("_file") || SHOWN.binary_search(&property).is_ok()
}

/// The settings in force, as a TOML table without secrets.
pub(super) fn redacted(table: &Table) -> toml::Table {
    let mut shown = plain_table(table);
    if let Some(toml::Value::Table(postgres)) = shown.get_mut("postgres") {
        if let Some(toml::Value::String(url)) = postgres.get_mut("url") {
            *url = without_password(url);
        }
        if let Some(password) = postgres.get_mut("password") {
            *password = REDACTED.into();
        }
    }
    if let Some(toml::Value::Table(service)) = shown.get_mut("service")
        && let Some(token) = service.get_mut("token")
    {
        *token = REDACTED.into();
    }
    if let Some(toml::Value::Table(kafka)) = shown.get_mut("kafka")
        && let Some(toml::Value::Table(properties)) = kafka.get_mut("properties")
    {
        for (_, value) in properties
            .iter_mut()
            .filter(|(name, _)| !may_be_shown(name))
        {
            *value = REDACTED.into();
        }
    }
    if let (Some(handovers), Some(toml::Value::Array(shown))) =
        (table.get("handovers"), shown.get_mut("handovers"))
        && let Value::List(list) = &handovers.value
    {
        for (handover, shown) in list.iter().zip(shown) {
            redact_handover(handover, "handovers", shown);
        }
    }
    shown
}

/// An entry as `check-config` shows it: whatever may be a secret is not in it. Secrets come by
/// variables, so a text with one in it is not shown, except for names and addresses.
fn redact_handover(node: &Node, key: &str, shown: &mut toml::Value) {
    const ALWAYS: [&str; 2] = ["token", "signing_key"];
    match (&node.value, shown) {
        (Value::Table(table), toml::Value::Table(shown)) => {
            for (name, node) in table {
                let Some(shown) = shown.get_mut(name) else {
                    continue;
                };
                let hidden = ALWAYS.contains(&name.as_str()) || key == "headers";
                match hidden {
                    true => *shown = REDACTED.into(),
                    false => redact_handover(node, name, shown),
                }
            }
        }
        (Value::Text(text), shown) if matches!(key, "url" | "base_url") => {
            *shown = without_query(text, node.origin != Origin::Default).into();
        }
        (Value::Text(_), shown) if node.loose && !matches!(key, "name" | "model") => {
            *shown = REDACTED.into();
        }
        _ => {}
    }
}

/// A URL without what stands before its host, and without its query where that is the user's own.
fn without_query(url: &str, own: bool) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority
        .rsplit_once('@')
        .map_or(authority.to_owned(), |(_, host)| {
            format!("{REDACTED}@{host}")
        });
    let path = match path.split_once('?') {
        Some((path, _)) if own => format!("{path}?{REDACTED}"),
        _ => path.to_owned(),
    };
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}{path}")
}

/// A Postgres URL with its password and parameters blanked; nothing of it, if it is no such URL.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return REDACTED.into();
    };
    // A password may hold any character: up to the last `@` everything is the user's.
    let (user_info, rest) = match rest.rsplit_once('@') {
        Some((user_info, rest)) => (Some(user_info), rest),
        None => (None, rest),
    };
    let place = match rest.split_once('?') {
        Some((place, parameters)) if !parameters.split('&').all(is_harmless) => {
            format!("{place}?{REDACTED}")
        }
        _ => rest.to_owned(),
    };
    match user_info {
        None => format!("{scheme}://{place}"),
        Some(info) => match info.split_once(':') {
            Some((user, _)) => format!("{scheme}://{user}:{REDACTED}@{place}"),
            None => format!("{scheme}://{info}@{place}"),
        },
    }
}

/// Whether a parameter of a Postgres URL is known to hold no secret.
fn is_harmless(parameter: &str) -> bool {
    const SHOWN: [&str; 11] = [
        "application_name",
        "dbname",
        "host",
        "hostaddr",
        "port",
        "sslcert",
        "sslkey", // its path
        "sslmode",
        "sslrootcert",
        "statement-cache-capacity",
        "user",
    ];
    let (name, _) = parameter.split_once('=').unwrap_or((parameter, ""));
    SHOWN.contains(&name)
}

fn plain_table(table: &Table) -> toml::Table {
    table
        .iter()
        .map(|(key, node)| (key.clone(), plain_value(node)))
        .collect()
}

pub(super) fn plain_value(node: &Node) -> toml::Value {
    match &node.value {
        Value::Text(text) => toml::Value::String(text.clone()),
        Value::Integer(integer) => toml::Value::Integer(*integer),
        Value::Float(number) => toml::Value::Float(*number),
        Value::Boolean(boolean) => toml::Value::Boolean(*boolean),
        Value::Datetime(datetime) => toml::Value::Datetime(*datetime),
        Value::List(list) => toml::Value::Array(list.iter().map(plain_value).collect()),
        Value::Table(table) => toml::Value::Table(plain_table(table)),
        Value::Broken => toml::Value::String(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_their_passwords() {
        let shown = |url| without_password(url);
        assert_eq!(
            shown("postgres://u:p@h:5432/d"),
            "postgres://u:[redacted]@h:5432/d"
        );
        assert_eq!(
            shown("postgres://u:p@ss@h/d"),
            "postgres://u:[redacted]@h/d"
        );
        assert_eq!(shown("postgres://u@h/d"), "postgres://u@h/d");
        assert_eq!(
            shown("postgres:///d?host=/s&password=x"),
            "postgres:///d?[redacted]"
        );
        assert_eq!(
            shown("postgres:///d?host=/s&user=u"),
            "postgres:///d?host=/s&user=u"
        );
        assert_eq!(shown("hunter2"), "[redacted]");
    }

    #[test]
    fn parameters_of_a_url_are_shown_if_they_are_known() {
        for hidden in [
            "pass%77ord=x",
            "sslpassword=x",
            "options=-c%20a.b%3Dx",
            "x",
            "host=/s&y=x",
        ] {
            let shown = without_password(&format!("postgres://u@h/d?{hidden}"));
            assert_eq!(shown, "postgres://u@h/d?[redacted]", "{hidden}");
        }
        let known = "postgres://u@h/d?sslmode=verify-full&application_name=driftd";
        assert_eq!(without_password(known), known);
    }

    #[test]
    fn only_properties_that_are_known_to_be_harmless_are_shown() {
        assert!(SHOWN.is_sorted());
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl_key",
            "ssl.keystore.password",
            "sasl.kerberos.kinit.cmd",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.assertion.private.key.pem",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.token.endpoint.url",
            "a.property.of.tomorrow",
        ] {
            assert!(!may_be_shown(name), "{name}");
        }
        for name in [
            "sasl.username",
            "ssl.key.location",
            "fetch.max.bytes",
            "sasl.password_file",
        ] {
            assert!(may_be_shown(name), "{name}");
        }
    }

    /// Of all properties that librdkafka has, none of a suspicious name is in the list, and it knows
    /// every one in it.
    #[test]
    fn the_list_is_librdkafkas() {
        use rdkafka::error::KafkaError;
        use rdkafka::types::RDKafkaConfRes;

        for name in SHOWN {
            // A wrong value is no matter.
            let set = rdkafka::ClientConfig::new()
                .set(name, "-")
                .create_native_config();
            let unknown = matches!(set, Err(KafkaError::ClientConfig(result, ..))
                if result == RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN);
            assert!(!unknown, "{name}");
            let words = ["password", "passphrase", "secret", "token", "pem", "_key"];
            assert!(!words.iter().any(|word| name.contains(word)), "{name}");
        }
    }
}
