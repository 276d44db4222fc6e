//! Under which leader a message was written.
//!
//! Each leader of a partition has a number, and each message that of the leader who wrote it. After
//! an election that cut the log, the brokers can tell where the log of an earlier leader ends: who
//! names the epoch of what was read last is told when that is not there any more, even if the log
//! has grown past it meanwhile. rdkafka has no functions for it, so those calls into librdkafka
//! stand here.
#![allow(unsafe_code)]

use std::ffi::CString;

use rdkafka::error::KafkaResult;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka_sys as sys;

use super::consumer::TopicPartition;

/// The epoch a message was written under; `None`: its broker is too old to say.
pub fn of_message(message: &BorrowedMessage<'_>) -> Option<i32> {
    // SAFETY: the message is alive as long as its reference, and only a number of it is read.
    known(unsafe { sys::rd_kafka_message_leader_epoch(message.ptr()) })
}

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

/// A list with one place: this offset, behind a message of that epoch.
///
/// # Errors
/// The offset is none.
pub fn place(
    key: &TopicPartition,
    offset: i64,
    epoch: Option<i32>,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&key.topic, key.partition, Offset::Offset(offset))?;
    if let Some(epoch) = epoch {
        // SAFETY: the list is alive, and the element that was just added is its first.
        unsafe { sys::rd_kafka_topic_partition_set_leader_epoch((*list.ptr()).elems, epoch) };
    }
    Ok(list)
}

fn known(epoch: i32) -> Option<i32> {
    (epoch >= 0).then_some(epoch)
}
