//! Whether a partition has nothing more to read.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::ingest::consumer::{Context, TopicPartition};

/// Caught up, by the broker's own word of this moment: a consumer that hears nothing may just as
/// well be cut off.
pub(super) fn is_caught_up(
    consumer: &BaseConsumer<Context>,
    key: &TopicPartition,
    next: i64,
) -> bool {
    let answer = consumer.fetch_watermarks(&key.topic, key.partition, Duration::from_secs(2));
    match answer {
        Ok((_, high)) => {
            let lag = (high - next).max(0);
            // Behind the last message a transaction leaves its marker, which no reader is given.
            let position = consumer.position().ok().and_then(|list| {
                list.find_partition(&key.topic, key.partition)
                    .and_then(|p| p.offset().to_raw())
            });
            lag == 0 || position.is_some_and(|position| position >= high)
        }
        Err(_) => false,
    }
}
