//! Messages of many partitions, taken in batches.
//!
//! The client hands out one message at a time, each as an event that it allocates. Its C library can
//! hand out many from a queue at once. rdkafka has no functions for it, so those calls stand here. The
//! queue holds messages and errors of partitions; what the group decides still comes by
//! [`BaseConsumer::poll`].
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_int};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka_sys as sys;

use super::consumer::Context;

/// Messages that are taken at a time.
const BATCH: usize = 1024;

/// The queue. It has to be dropped before its client.
#[derive(Debug)]
pub struct Queue {
    waker: Waker,
    queue: NonNull<sys::rd_kafka_queue_t>,
    client: *mut sys::rd_kafka_t,
    /// Room for a batch of pointers.
    taken: Vec<*mut sys::rd_kafka_message_t>,
}

/// Ends a poll of the queue before its time, from any thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Mutex<Option<Shared>>>);

#[derive(Debug)]
struct Shared(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues may be used from any thread; this one is only woken.
unsafe impl Send for Shared {}

impl Waker {
    /// A poll that waits returns now; else the next one does.
    pub fn wake(&self) {
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Shared(queue)) = &*queue {
            // SAFETY: the queue is taken out of here, under the lock, before it is destroyed.
            unsafe { sys::rd_kafka_queue_yield(queue.as_ptr()) };
        }
    }
}

impl Queue {
    /// An empty queue of a client.
    ///
    /// # Errors
    /// librdkafka gives none.
    pub fn new(consumer: &BaseConsumer<Context>) -> KafkaResult<Self> {
        let client = consumer.client().native_ptr();
        // SAFETY: the client is alive; the queue is ours to destroy.
        let queue = NonNull::new(unsafe { sys::rd_kafka_queue_new(client) });
        let queue = queue.ok_or(KafkaError::ClientCreation("no queue".to_owned()))?;
        Ok(Self {
            waker: Waker(Arc::new(Mutex::new(Some(Shared(queue))))),
            queue,
            client,
            taken: Vec::with_capacity(BATCH),
        })
    }

    /// Wakes whoever polls.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// From now on messages of a partition come here. Its fetcher has to be there already, as it is
    /// after a seek.
    ///
    /// # Errors
    /// The topic's name holds a NUL, or the client does not have the partition.
    pub fn adopt(&self, topic: &str, partition: i32) -> KafkaResult<()> {
        let topic = CString::new(topic)?;
        // SAFETY: the client outlives this; the queue is a reference of ours to the partition's own.
        let own =
            unsafe { sys::rd_kafka_queue_get_partition(self.client, topic.as_ptr(), partition) };
        let own = NonNull::new(own).ok_or(KafkaError::MessageConsumption(
            RDKafkaErrorCode::UnknownPartition,
        ))?;
        // SAFETY: both queues are alive; librdkafka holds references of its own from then on.
        unsafe {
            sys::rd_kafka_queue_forward(own.as_ptr(), self.queue.as_ptr());
            sys::rd_kafka_queue_destroy(own.as_ptr());
        }
        Ok(())
    }

    /// Waits for a first message for so long, and takes those that are there.
    pub fn poll(&mut self, timeout: Duration) -> Vec<Message> {
        let millis = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        let room = self.taken.spare_capacity_mut();
        // SAFETY: there is room for so many pointers, of which librdkafka says how many it has
        // written; each is a message that is ours to destroy.
        unsafe {
            let (first, most) = (room.as_mut_ptr().cast(), room.len());
            let taken = sys::rd_kafka_consume_batch_queue(self.queue.as_ptr(), millis, first, most);
            self.taken.set_len(usize::try_from(taken).unwrap_or(0));
        }
        let taken = self.taken.drain(..).filter_map(NonNull::new);
        taken.map(Message).collect()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        *self.waker.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // SAFETY: made by us, destroyed once, and nobody wakes it any more.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

/// A message, or an error of a partition.
#[derive(Debug)]
pub struct Message(NonNull<sys::rd_kafka_message_t>);

impl Message {
    fn get(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: not null, alive until it is dropped, and nobody writes to it.
        unsafe { self.0.as_ref() }
    }

    /// Which partition it is of, as long as other messages of the same batch are there: the address of
    /// the topic, and the partition's number.
    pub fn source(&self) -> (usize, i32) {
        (self.get().rkt.addr(), self.get().partition)
    }

    /// The topic; empty where an error has none.
    pub fn topic(&self) -> &str {
        if self.get().rkt.is_null() {
            return "";
        }
        // SAFETY: the topic is alive as long as its message, and its name ends in NUL.
        let name = unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(self.get().rkt)) };
        name.to_str().unwrap_or_default()
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        self.get().partition
    }

    /// The offset.
    pub fn offset(&self) -> i64 {
        self.get().offset
    }

    /// What is wrong, where it is an error: its code, and librdkafka's text.
    pub fn error(&self) -> Option<(RDKafkaErrorCode, String)> {
        let code = self.get().err;
        if code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        // SAFETY: the message is alive; the text is null or ends in NUL and is part of it.
        let text = unsafe {
            let text = sys::rd_kafka_message_errstr(self.0.as_ptr());
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        Some((code.into(), text.unwrap_or_default()))
    }

    /// The value; `None`: a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        let message = self.get();
        let payload = NonNull::new(message.payload.cast::<u8>())?;
        // SAFETY: so many bytes, alive as long as the message.
        Some(unsafe { std::slice::from_raw_parts(payload.as_ptr(), message.len) })
    }

    /// The message's own timestamp in milliseconds, if it has one.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and the kind is written to.
        let ms = unsafe { sys::rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
        let known = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (known && ms != -1).then_some(ms)
    }

    /// The leader epoch it was written under; `None`: its broker is too old to say.
    pub fn leader_epoch(&self) -> Option<i32> {
        // SAFETY: the message is alive, and only a number of it is read.
        let epoch = unsafe { sys::rd_kafka_message_leader_epoch(self.0.as_ptr()) };
        (epoch >= 0).then_some(epoch)
    }

    /// The value of a header; the last one where the name comes twice.
    pub fn header(&self, name: &CStr) -> Option<String> {
        let mut headers = std::ptr::null_mut();
        let (mut value, mut length) = (std::ptr::null(), 0);
        // SAFETY: message and name are alive; headers and value are part of the message, where the
        // call says that there are any.
        unsafe {
            let none = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            if sys::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) != none
                || sys::rd_kafka_header_get_last(
                    headers,
                    name.as_ptr(),
                    &raw mut value,
                    &raw mut length,
                ) != none
                || value.is_null()
            {
                return None;
            }
            let value = std::slice::from_raw_parts(value.cast::<u8>(), length);
            Some(String::from_utf8_lossy(value).into_owned())
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { sys::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}
