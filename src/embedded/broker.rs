//! A Kafka broker inside this process: librdkafka's mock cluster. It listens on a free port of the
//! loopback interface, so that other processes can use it as well, and it is gone with the process.
//!
//! It is good for `driftd demo` and for tests, and for nothing else: records live in memory, and a
//! partition keeps only its last 5 MiB or 100,000 batches, so a producer has to keep pace with who
//! reads. Offsets by timestamp and aborted transactions it answers wrongly.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::mocking;
use rdkafka::producer::{BaseProducer, DefaultProducerContext, Producer};

/// The cluster itself, with all that can be done to it.
pub type Cluster<'c> = mocking::MockCluster<'c, DefaultProducerContext>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not come up.
    #[error("cannot start the embedded Kafka broker: {0}")]
    Start(#[source] KafkaError),
    /// Its thread.
    #[error("cannot start a thread for the embedded Kafka broker: {0}")]
    Thread(#[source] std::io::Error),
    /// A topic.
    #[error("cannot create topic `{topic}` on the embedded Kafka broker: {source}")]
    Topic {
        /// The topic.
        topic: String,
        /// Why.
        source: KafkaError,
    },
    /// The thread that held the broker is gone.
    #[error("the embedded Kafka broker has ended")]
    Gone,
}

/// Something to do on the thread that holds the cluster.
type Request = Box<dyn FnOnce(&Cluster<'_>) + Send>;

/// A running broker; dropping it stops it, and what it holds is gone.
#[derive(Debug)]
pub struct Broker {
    brokers: String,
    nodes: i32,
    requests: Option<mpsc::SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts a broker without topics: one node, which does all that the demo needs.
    ///
    /// # Errors
    /// librdkafka's, where it cannot listen.
    pub fn start() -> Result<Self, Error> {
        Self::start_nodes(1)
    }

    /// Starts a cluster of several nodes, numbered from 1, each partition led by one of them.
    ///
    /// # Errors
    /// librdkafka's, where it cannot listen.
    pub fn start_nodes(nodes: i32) -> Result<Self, Error> {
        // The mock cluster may not change threads, so it gets one of its own.
        let (requests, asked) = mpsc::sync_channel(1);
        let (started, start) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("kafka-broker".into())
            .spawn(move || serve(nodes, &started, &asked))
            .map_err(Error::Thread)?;
        let brokers = start
            .recv()
            .map_err(|_| Error::Gone)?
            .map_err(Error::Start)?;
        Ok(Self {
            brokers,
            nodes,
            requests: Some(requests),
            thread: Some(thread),
        })
    }

    /// What `bootstrap.servers` has to be.
    pub fn brokers(&self) -> String {
        self.brokers.clone()
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// [`Error::Topic`] where it is there already or the name is none.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), Error> {
        let (topic, nodes) = (name.to_owned(), self.nodes);
        let made = self.ask(move |cluster| cluster.create_topic(&topic, partitions, nodes))?;
        made.map_err(|source| Error::Topic {
            topic: name.to_owned(),
            source,
        })
    }

    /// Does something to the cluster: makes a topic, or stages what can go wrong with it.
    ///
    /// # Errors
    /// [`Error::Gone`] where its thread has ended.
    pub fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Cluster<'_>) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = mpsc::sync_channel(1);
        let request: Request = Box::new(move |cluster| {
            let _ = answer.send(what(cluster));
        });
        let asked = self.requests.as_ref().ok_or(Error::Gone)?;
        asked.send(request).map_err(|_| Error::Gone)?;
        answered.recv().map_err(|_| Error::Gone)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Holds the cluster until nobody can ask for anything any more.
fn serve(
    nodes: i32,
    started: &mpsc::SyncSender<Result<String, KafkaError>>,
    asked: &mpsc::Receiver<Request>,
) {
    let client = match client(nodes) {
        Ok(client) => client,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    let Some(cluster) = client.client().mock_cluster() else {
        let _ = started.send(Err(KafkaError::MockCluster(RDKafkaErrorCode::Fail)));
        return;
    };
    give_partitions_at_once(&client);
    let _ = started.send(Ok(cluster.bootstrap_servers()));
    while let Ok(request) = asked.recv() {
        request(&cluster);
    }
}

/// A client with a cluster of its own, which it holds as long as it lives.
fn client(nodes: i32) -> Result<BaseProducer, KafkaError> {
    let mut config = ClientConfig::new();
    config.set("test.mock.num.brokers", nodes.to_string());
    config.create()
}

/// Otherwise the cluster waits for three seconds whether more members come to a new group.
#[allow(
    unsafe_code,
    reason = "the binding has no call for it, and hides the cluster that one would need"
)]
fn give_partitions_at_once(client: &BaseProducer) {
    let client = client.client().native_ptr();
    // The client is alive, so its cluster is, and both calls may come from any thread: the first
    // reads a field that does not change, the second takes the cluster's lock.
    unsafe {
        let cluster = rdkafka_sys::rd_kafka_handle_mock_cluster(client);
        rdkafka_sys::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_makes_topics_and_refuses_what_is_none() {
        let broker = Broker::start().unwrap();
        assert!(broker.brokers().contains(':'));
        broker.create_topic("flights", 4).unwrap();
        let again = broker.create_topic("flights", 4).unwrap_err().to_string();
        assert!(again.contains("`flights`"), "{again}");
        assert!(broker.create_topic("no\0name", 1).is_err());
    }
}
