//! `[kafka]`: brokers, group, where to begin, and the properties that are passed through.

use chrono::{DateTime, Utc};
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use secrecy::{ExposeSecret, SecretString};

use crate::settings::field::Field;
use crate::settings::file::Value;
use crate::settings::read::Section;
use crate::settings::secret::{from_file, may_be_shown, not_a_flag, plain_value};
use crate::settings::{CONSUMER_PROTOCOL, Kafka, PROTOCOL, StartAt};

/// Properties that are refused, each with the reason.
const DENIED: [(&str, &str); 15] = [
    ("bootstrap.servers", "set kafka.brokers"),
    ("metadata.broker.list", "set kafka.brokers"),
    ("group.id", "set kafka.group"),
    (
        "auto.offset.reset",
        "set kafka.start_at; a stored offset that is gone is never skipped",
    ),
    ("enable.auto.commit", OFFSETS),
    ("auto.commit.interval.ms", OFFSETS),
    ("enable.auto.offset.store", OFFSETS),
    ("offset.store.method", OFFSETS),
    ("isolation.level", "driftd reads committed messages only"),
    (
        "partition.assignment.strategy",
        "driftd assigns partitions cooperatively; with group.protocol = \"consumer\" the brokers \
         assign them, see group.remote.assignor",
    ),
    (
        "enable.partition.eof",
        "driftd needs it to see that a partition is caught up",
    ),
    ("check.crcs", "driftd always checks what it reads"),
    ("allow.auto.create.topics", "driftd creates no topics"),
    ("plugin.library.paths", "driftd loads no foreign code"),
    ("ssl.engine.location", "driftd loads no foreign code"),
];
/// What the brokers decide once `group.protocol` is `consumer`; librdkafka refuses them together.
const THE_BROKERS_DECIDE: [(&str, &str); 3] = [
    (
        "session.timeout.ms",
        "leave it out, and set group.consumer.session.timeout.ms on the brokers",
    ),
    (
        "heartbeat.interval.ms",
        "leave it out, and set group.consumer.heartbeat.interval.ms on the brokers",
    ),
    (
        "group.protocol.type",
        "leave it out: it belongs to the classic protocol",
    ),
];
const OFFSETS: &str = "offsets are stored with the results, in Postgres";

/// Reads `[kafka]`. Brokers are needed only where something is `watched`.
pub(super) fn kafka(section: &Section<'_>, watched: bool) -> Option<Kafka> {
    const BROKERS: &str = "expected hosts with ports such as \"kafka-1:9092,kafka-2:9092\"";
    let brokers = match section.has("brokers") {
        true => section.may("brokers", |f| brokers(f, BROKERS)),
        false if watched => {
            section.missing("brokers", BROKERS);
            None
        }
        false => Some(String::new()),
    };
    let group = section.must("group", "expected a name", |f| {
        f.text("expected the name of a consumer group")
            .map(str::to_owned)
    });
    let start_at = section.must("start_at", "expected a start", start_at);
    let properties = section.may("properties", |f| super::section(f, properties));
    let (brokers, group, start_at) = (brokers?, group?, start_at?);
    Some(Kafka {
        brokers,
        group,
        start_at,
        properties: properties.unwrap_or_default(),
    })
}

fn brokers(field: &Field<'_>, right: &str) -> Option<String> {
    let list: Option<Vec<&str>> = match field.as_list() {
        Some(elements) => elements.iter().map(Field::as_text).collect(),
        None => field.as_text().map(|text| text.split(',').collect()),
    };
    let list: Vec<&str> = list
        .unwrap_or_default()
        .into_iter()
        .map(str::trim)
        .collect();
    if list.is_empty() || !list.iter().all(|broker| is_broker(broker)) {
        field.wrong(right);
        return None;
    }
    Some(list.join(","))
}

/// `host`, `host:port` or `[v6]:port`.
fn is_broker(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host_is_right = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
        }
    };
    host_is_right && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn start_at(field: &Field<'_>) -> Option<StartAt> {
    let time = |text: &str| {
        DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|t| t.with_timezone(&Utc))
    };
    let start = match &field.node().value {
        Value::Text(text) if text == "earliest" => Some(StartAt::Earliest),
        Value::Text(text) if text == "latest" => Some(StartAt::Latest),
        Value::Text(text) => time(text).map(StartAt::Timestamp),
        Value::Datetime(datetime) => time(&datetime.to_string()).map(StartAt::Timestamp),
        _ => None,
    };
    if start.is_none() {
        field.wrong("expected \"earliest\", \"latest\" or a time such as \"2026-01-31T00:00:00Z\"");
    }
    start
}

fn properties(section: &Section<'_>) -> Option<Vec<(String, SecretString)>> {
    let fields = section.all();
    let in_force: Vec<_> = fields
        .iter()
        .filter(|(name, field)| wins(name, field, &fields))
        .collect();
    let read: Vec<_> = in_force
        .iter()
        .map(|(name, field)| property(name, field))
        .collect();
    let protocol = read.iter().flatten().find(|(name, _)| name == PROTOCOL);
    let by_brokers = protocol.is_some_and(|(_, value)| {
        value
            .expose_secret()
            .eq_ignore_ascii_case(CONSUMER_PROTOCOL)
    });
    let mut fits = true;
    for (name, field) in in_force.into_iter().filter(|_| by_brokers) {
        let decided = |(property, _): &&(&str, &str)| *property == property_name(name);
        if let Some((_, right)) = THE_BROKERS_DECIDE.iter().find(decided) {
            field.fault(
                "the brokers decide it with group.protocol = \"consumer\"",
                right,
            );
            fits = false;
        }
    }
    fits.then(|| read.into_iter().collect()).flatten()
}

/// Where a value and its file are both given, the higher layer wins.
fn wins(name: &str, field: &Field<'_>, fields: &[(&str, Field<'_>)]) -> bool {
    let property = property_name(name);
    let rival = fields
        .iter()
        .find(|(other, _)| *other != name && property_name(other) == property);
    let Some((_, rival)) = rival else { return true };
    if field.origin().layer() == rival.origin().layer() && name != property {
        field.fault(
            format!("{property} is given as well"),
            "give one of the two",
        );
    }
    field.origin().layer() >= rival.origin().layer()
}

fn property_name(name: &str) -> &str {
    name.strip_suffix("_file").unwrap_or(name)
}

fn property(name: &str, field: &Field<'_>) -> Option<(String, SecretString)> {
    let property = property_name(name);
    if let Some((_, why)) = DENIED.iter().find(|(denied, _)| *denied == property) {
        field.fault("this property is driftd's own", why);
        return None;
    }
    let value = if property != name {
        from_file(field)?
    } else {
        plain(field)?
    };
    if property == "statistics.interval.ms" && value.expose_secret().trim() == "0" {
        field.fault(
            "without statistics nothing tells which partition the client has given up",
            "leave it out, or give milliseconds, such as 5000",
        );
        return None;
    }
    let accepted = understood(property, field, &value) && (may_be_shown(name) || not_a_flag(field));
    accepted.then(|| (property.to_owned(), value))
}

fn plain(field: &Field<'_>) -> Option<SecretString> {
    match plain_value(field.node()) {
        toml::Value::String(text) => Some(text.into()),
        value @ (toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Float(_)) => {
            Some(value.to_string().into())
        }
        _ => {
            field.fault(
                "not a single value",
                "expected a text, a number, true or false",
            );
            None
        }
    }
}

/// Asks librdkafka whether it knows the property and takes the value.
fn understood(name: &str, field: &Field<'_>, value: &SecretString) -> bool {
    let mut config = ClientConfig::new();
    config.set(name, value.expose_secret());
    match config.create_native_config() {
        Ok(_) => true,
        // The reason is shown unless it may quote a secret; of an unknown property it quotes the name.
        Err(KafkaError::ClientConfig(result, why, ..))
            if may_be_shown(name) || result == RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN =>
        {
            field.fault(why, "see the properties of librdkafka");
            false
        }
        Err(_) => {
            field.fault(
                "librdkafka does not take it",
                "see the properties of librdkafka",
            );
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_and_ports() {
        for right in [
            "a",
            "a:9092",
            "kafka-1.example.com:1",
            "[::1]:9092",
            "10.0.0.1:9092",
        ] {
            assert!(is_broker(right), "{right}");
        }
        for wrong in [
            "",
            ":9092",
            "a:0",
            "a:99999",
            "a:b",
            "http://a:9092",
            "a b:1",
            "[::g]:1",
        ] {
            assert!(!is_broker(wrong), "{wrong}");
        }
    }
}
