//! Places in logs, with the leader under which the message before was written.
//!
//! Each leader of a partition has a number, and each message that of the leader who wrote it. After
//! an election that cut the log, the brokers can tell where the log of an earlier leader ends: who
//! names the epoch of what was read last is told when that is not there any more, even if the log
//! has grown past it meanwhile. rdkafka has no functions for it, so those calls into librdkafka
//! stand here.
#![allow(unsafe_code)]

use std::ffi::CString;

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka_sys as sys;

use super::consumer::TopicPartition;

/// The epoch of a partition's place in a list.
///
/// # Errors
/// The topic's name holds a NUL.
pub fn of_place(list: &TopicPartitionList, key: &TopicPartition) -> KafkaResult<Option<i32>> {
    let topic = CString::new(&*key.topic)?;
    // SAFETY: list and name are alive; what is found is part of the list, or null.
    let found = unsafe {
        sys::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), key.partition)
    };
    if found.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, and alive as long as the list.
    Ok(known(unsafe {
        sys::rd_kafka_topic_partition_get_leader_epoch(found)
    }))
}

/// How far a client has come in the partitions of a list.
///
/// # Errors
/// The client refuses.
pub fn positions<C: ClientContext>(
    client: &Client<C>,
    list: &TopicPartitionList,
) -> KafkaResult<TopicPartitionList> {
    let list = list.clone();
    // SAFETY: client and list are alive; only elements of the list are written to.
    let code = unsafe { sys::rd_kafka_position(client.native_ptr(), list.ptr()) };
    match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(list),
        code => Err(KafkaError::MetadataFetch(code.into())),
    }
}

/// An offset of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// The leader epoch of the message before it, where that is known.
    pub leader_epoch: Option<i32>,
}

/// Places as the client takes them.
///
/// # Errors
/// An offset is negative.
pub fn list(places: &[Place<'_>]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for place in places {
        let offset = Offset::Offset(place.offset);
        list.add_partition_offset(place.topic, place.partition, offset)?;
    }
    for (at, place) in places.iter().enumerate() {
        if let Some(epoch) = place.leader_epoch {
            // SAFETY: the list is alive, and holds its elements in the order in which they were added.
            unsafe {
                let element = (*list.ptr()).elems.add(at);
                sys::rd_kafka_topic_partition_set_leader_epoch(element, epoch);
            }
        }
    }
    Ok(list)
}

fn known(epoch: i32) -> Option<i32> {
    (epoch >= 0).then_some(epoch)
}
