//! What topics are, for which rdkafka has no functions, so that those calls into librdkafka stand here.
//!
//! A topic that was deleted and created again has the same name and another id, and that is the only
//! thing that tells the two apart for certain. Brokers older than 2.8 have no ids: then nothing is
//! known of a topic's identity, and nothing may be concluded from it.
//!
//! Brokers learn of a new topic one after another, so an answer can be a moment older than what
//! another broker gives already.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka_sys as sys;

use crate::collect::partition::log::Topic;

/// What is said of each topic, in the order of the question: the topic, or why there is none.
pub type Described = Vec<Result<Topic, RDKafkaErrorCode>>;

/// Asks a broker. librdkafka by itself would ask the controller, as far as it knows which one that
/// is; any broker knows the answer.
///
/// # Errors
/// It does not answer in time, or not to this.
pub fn describe<C: ClientContext>(
    client: &Client<C>,
    broker: i32,
    topics: &[String],
    timeout: Duration,
) -> KafkaResult<Described> {
    let event = ask(client, broker, topics, timeout)?;
    // SAFETY: the event is alive; the result is part of it, and null where it is of another kind.
    let result = unsafe { sys::rd_kafka_event_DescribeTopics_result(event.get()) };
    if result.is_null() {
        return Err(KafkaError::AdminOp(RDKafkaErrorCode::Fail));
    }
    let mut count = 0;
    // SAFETY: the result is not null and alive as long as the event; so are the descriptions.
    let found = unsafe { sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count) };
    if found.is_null() || count != topics.len() {
        return Err(KafkaError::AdminOp(RDKafkaErrorCode::BadMessage));
    }
    // SAFETY: librdkafka gives an array of so many descriptions, alive as long as the event.
    let found = unsafe { std::slice::from_raw_parts(found, count) };
    Ok(found.iter().map(|topic| read(*topic)).collect())
}

/// Sends the question about topics and waits for the event that answers it.
fn ask<C: ClientContext>(
    client: &Client<C>,
    broker: i32,
    topics: &[String],
    timeout: Duration,
) -> KafkaResult<Owned<sys::rd_kafka_event_t>> {
    let names = topics.iter().map(|topic| CString::new(topic.as_str()));
    let names = names.collect::<Result<Vec<CString>, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let of = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    let asking = Asking::new(client.native_ptr(), of, timeout)?;
    // SAFETY: so many pointers to names that end in NUL, alive until after the call, which copies.
    let list = unsafe {
        sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len())
    };
    let list = Owned::new(list, sys::rd_kafka_TopicCollection_destroy)?;
    let (mut why, length) = ([0; 256], 256);
    // SAFETY: the options are alive, and the text has the length that is said.
    succeed(unsafe {
        let why = why.as_mut_ptr();
        sys::rd_kafka_AdminOptions_set_broker(asking.options.get(), broker, why, length)
    })?;
    // SAFETY: all four are alive; librdkafka copies what it needs of list and options, and holds a
    // reference of its own to the queue.
    unsafe {
        sys::rd_kafka_DescribeTopics(
            client.native_ptr(),
            list.get(),
            asking.options.get(),
            asking.queue.get(),
        );
    }
    asking.answer()
}

/// A question to brokers: its options, and the queue that its answer comes to.
struct Asking {
    queue: Owned<sys::rd_kafka_queue_t>,
    options: Owned<sys::rd_kafka_AdminOptions_t>,
    millis: c_int,
}

impl Asking {
    fn new(
        client: *mut sys::rd_kafka_t,
        of: sys::rd_kafka_admin_op_t,
        timeout: Duration,
    ) -> KafkaResult<Self> {
        let millis = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the caller's client is alive; what is made of it is owned by us and destroyed when
        // it is dropped, before the client.
        let queue = unsafe { sys::rd_kafka_queue_new(client) };
        let queue = Owned::new(queue, sys::rd_kafka_queue_destroy)?;
        // SAFETY: as above.
        let options = unsafe { sys::rd_kafka_AdminOptions_new(client, of) };
        let options = Owned::new(options, sys::rd_kafka_AdminOptions_destroy)?;
        let (mut why, length) = ([0; 256], 256);
        // SAFETY: the options are alive, and the text has the length that is said.
        succeed(unsafe {
            let why = why.as_mut_ptr();
            sys::rd_kafka_AdminOptions_set_request_timeout(options.get(), millis, why, length)
        })?;
        Ok(Self {
            queue,
            options,
            millis,
        })
    }

    /// Waits for the answer. librdkafka answers by itself when the time is over.
    fn answer(&self) -> KafkaResult<Owned<sys::rd_kafka_event_t>> {
        // SAFETY: the queue is alive.
        let event = unsafe {
            sys::rd_kafka_queue_poll(self.queue.get(), self.millis.saturating_add(1_000))
        };
        let event = Owned::new(event, sys::rd_kafka_event_destroy)
            .map_err(|_| KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut))?;
        // SAFETY: the event is alive.
        succeed(unsafe { sys::rd_kafka_event_error(event.get()) })?;
        Ok(event)
    }
}

fn succeed(code: sys::rd_kafka_resp_err_t) -> KafkaResult<()> {
    match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::AdminOp(code.into())),
    }
}

/// Reads one description, which the event owns.
fn read(topic: *const sys::rd_kafka_TopicDescription_t) -> Result<Topic, RDKafkaErrorCode> {
    // SAFETY: descriptions of an event that is alive are never null, and their error may be.
    let error = unsafe { sys::rd_kafka_TopicDescription_error(topic) };
    if !error.is_null() {
        // SAFETY: not null, and alive as long as the description.
        return Err(unsafe { sys::rd_kafka_error_code(error) }.into());
    }
    let mut partitions = 0;
    // SAFETY: as above; only the count is read.
    unsafe { sys::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions) };
    // SAFETY: as above; the id is part of the description.
    let id = unsafe { sys::rd_kafka_TopicDescription_topic_id(topic) };
    Ok(Topic {
        id: text(id),
        partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
    })
}

/// The id as Kafka's tools write it; `None` for the one that stands for none.
fn text(id: *const sys::rd_kafka_Uuid_t) -> Option<String> {
    if id.is_null() {
        return None;
    }
    // SAFETY: not null, and alive as long as its description; the text is part of the id.
    unsafe {
        let bits = sys::rd_kafka_Uuid_most_significant_bits(id)
            | sys::rd_kafka_Uuid_least_significant_bits(id);
        let text = sys::rd_kafka_Uuid_base64str(id);
        (bits != 0 && !text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// Something of librdkafka's that is ours to destroy.
struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> KafkaResult<Self> {
        let pointer = NonNull::new(pointer).ok_or(KafkaError::AdminOp(RDKafkaErrorCode::Fail))?;
        Ok(Self { pointer, destroy })
    }

    fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by librdkafka, not null, destroyed once, by the function that belongs to it.
        unsafe { (self.destroy)(self.get()) }
    }
}
