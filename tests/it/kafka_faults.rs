//! What Kafka does to driftd: brokers that go, come back, move, answer late or with errors, and
//! logs that hold more than plain messages. Whatever it is, the rows are those of the reference.

use std::time::Duration;

use driftd::embedded::broker::Broker;
use driftd::ingest::consumer::{self, TopicPartition};
use driftd::settings::Settings;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCoordinator;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};

use crate::harness::daemon::Daemon;
use crate::harness::kafka::Kafka;
use crate::harness::oracle::{check, check_episodes, check_jobs, check_scores, check_windows};
use crate::harness::reference::Reference;
use crate::harness::stage::{
    BY_BROKERS, CLASSIC, Knobs, Stage, fresh_topic, hold, kafka_topic, mock_topic,
};
use crate::harness::traffic::{
    Dice, PARTITIONS, Record, messages, produce, produce_as, send, story,
};
use crate::harness::until;

/// One for which no stable window of the story is beyond the limits by chance.
const SEED: u64 = 16;
/// Nodes of a cluster whose leaders and coordinators can move.
const NODES: i32 = 3;
/// A node that goes down may leave a request without an answer, for a minute by default, and is
/// looked for less and less often, up to every ten seconds.
const IMPATIENT: &str = "\"socket.timeout.ms\" = 3000\n\"reconnect.backoff.max.ms\" = 500\n";
const TIMEOUT: Duration = Duration::from_secs(30);

/// A cluster of one test, and all that driftd needs beside it.
struct Scene {
    broker: Broker,
    knobs: Knobs,
    stage: Stage,
    log: Vec<Record>,
}

impl Scene {
    /// Node 1 leads partition 0 and so on, whatever the cluster would choose by itself.
    async fn set(idle_after: &'static str) -> Self {
        let broker = Broker::start_nodes(NODES).unwrap();
        let topic = fresh_topic();
        broker.create_topic(&topic, PARTITIONS).unwrap();
        let knobs = Knobs {
            brokers: broker.brokers(),
            idle_after,
            ..Knobs::mock(&topic)
        };
        let stage = Stage::set(&knobs).await;
        stage.set_properties(&format!("{CLASSIC}{IMPATIENT}"));
        let log = messages(SEED, &story());
        let scene = Self {
            broker,
            knobs,
            stage,
            log,
        };
        for partition in 0..PARTITIONS {
            scene.lead(partition, partition + 1);
        }
        scene.coordinate(1);
        scene
    }

    /// Makes a node the leader of a partition.
    fn lead(&self, partition: i32, node: i32) {
        let topic = self.knobs.topic.clone();
        let moved = self
            .broker
            .ask(move |cluster| cluster.partition_leader(&topic, partition, Some(node)));
        moved.unwrap().unwrap();
    }

    /// Makes a node the coordinator of driftd's group.
    fn coordinate(&self, node: i32) {
        let group = MockCoordinator::Group(format!("driftd-{}", self.knobs.topic));
        let moved = self
            .broker
            .ask(move |cluster| cluster.coordinator(group, node));
        moved.unwrap().unwrap();
    }

    fn down(&self, node: i32) {
        let down = self.broker.ask(move |cluster| cluster.broker_down(node));
        down.unwrap().unwrap();
    }

    fn up(&self, node: i32) {
        let up = self.broker.ask(move |cluster| cluster.broker_up(node));
        up.unwrap().unwrap();
    }

    /// The next answers to such requests are these errors.
    fn fail(&self, api: Api, codes: &'static [Code]) {
        let pushed = self
            .broker
            .ask(move |cluster| cluster.request_errors(api, codes));
        pushed.unwrap();
    }

    fn produce(&self, records: &[Record]) {
        produce(&self.knobs.brokers, &self.knobs.topic, records);
    }

    /// The log in so many parts, each with the number of messages up to its end.
    fn parts(&self, count: usize) -> impl Iterator<Item = (usize, &[Record])> {
        let size = self.log.len().div_ceil(count);
        let upto = move |(i, part): (usize, &[Record])| i * size + part.len();
        let parts = self.log.chunks(size).enumerate();
        parts.map(move |(i, part)| (upto((i, part)), part))
    }

    async fn finish(&self, daemon: &mut Daemon) {
        let reference = Reference::of(&self.log, &self.stage.baseline_csv);
        self.finish_as(&reference, daemon).await;
    }

    async fn finish_as(&self, reference: &Reference, daemon: &mut Daemon) {
        self.stage.saved(self.log.len()).await;
        self.stage.judged(reference.windows.len()).await;
        assert!(daemon.terminate().await.success(), "{}", daemon.log());
        check(&self.stage, reference).await;
    }
}

/// Waits until a line of the log has these words once more than it had them.
async fn says_again(daemon: &mut Daemon, words: &str, before: usize) {
    until(&format!("the log says once more: {words}"), async || {
        assert!(daemon.is_running(), "it has ended:\n{}", daemon.log());
        times(daemon, words) > before
    })
    .await;
}

fn times(daemon: &Daemon, words: &str) -> usize {
    daemon.log().matches(words).count()
}

// --- brokers that go and come back ---------------------------------------------------------------

#[tokio::test]
async fn nodes_that_go_down_one_after_the_other_change_nothing() {
    let scene = Scene::set("1h").await;
    let mut daemon = Daemon::start(&scene.stage.config);
    says_again(&mut daemon, "reading topic", 0).await;
    for (node, (upto, part)) in (1..=NODES).zip(scene.parts(3)) {
        scene.produce(part);
        scene.down(node);
        // How long it is away; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        scene.up(node);
        scene.stage.saved(upto).await;
    }
    scene.finish(&mut daemon).await;
}

#[tokio::test]
async fn leaders_and_coordinators_that_move_change_nothing() {
    let scene = Scene::set("1h").await;
    let mut dice = Dice::new(SEED);
    let mut node = move || 1 + i32::try_from(dice.below(NODES.unsigned_abs().into())).unwrap();
    let mut daemon = Daemon::start(&scene.stage.config);
    for (upto, part) in scene.parts(8) {
        scene.produce(part);
        for partition in 0..PARTITIONS {
            scene.lead(partition, node());
        }
        scene.coordinate(node());
        scene.stage.saved(upto).await;
    }
    scene.finish(&mut daemon).await;
}

/// The partition whose leader is away is not idle, however quiet it is: it holds windows back, and
/// nothing else back.
#[tokio::test]
async fn a_partition_without_a_leader_holds_windows_back_and_no_partition() {
    let scene = Scene::set("1s").await;
    let pool = &scene.stage.db.pool;
    let saved_of = async |partition: i32| -> i64 {
        let sql = "select coalesce(sum(messages), 0)::bigint from driftd.checkpoints
            where partition = $1";
        let sum = sqlx::query_scalar(sql).bind(partition);
        sum.fetch_one(pool).await.unwrap()
    };
    let messages_of = |partition: i32| {
        let own = scene.log.iter().filter(|r| r.partition == partition);
        i64::try_from(own.count()).unwrap()
    };
    scene.produce(&scene.log);
    scene.down(NODES); // the leader of the last partition
    let mut daemon = Daemon::start(&scene.stage.config);
    until(
        "the partitions with a leader are read, and idle",
        async || {
            assert!(daemon.is_running(), "it has ended:\n{}", daemon.log());
            let idle =
                "select count(*) from driftd.partition_progress where idle_since is not null";
            let rest = 0..PARTITIONS - 1;
            let mut read = scene.stage.count(idle).await == i64::from(PARTITIONS) - 1;
            for partition in rest {
                read &= saved_of(partition).await == messages_of(partition);
            }
            read
        },
    )
    .await;
    assert_eq!(saved_of(PARTITIONS - 1).await, 0);
    let judged = scene
        .stage
        .count("select count(*) from driftd.windows")
        .await;
    assert_eq!(judged, 0, "without the rows of a partition that is cut off");
    scene.up(NODES);
    // Then all of them are read, and idle: no window waits for more.
    let reference = Reference::of_ended(&scene.log, &scene.stage.baseline_csv);
    scene.finish_as(&reference, &mut daemon).await;
}

/// Both assignments have asked Postgres for the partition when it answers: the second one counts,
/// whatever order the answers come in.
#[tokio::test]
async fn a_partition_that_is_assigned_twice_before_it_is_taken_over_is_read() {
    let scene = Scene::set("1h").await;
    scene.produce(&scene.log);
    let lock = hold(&scene.stage.db.pool, "partition_progress").await;
    let mut daemon = Daemon::start(&scene.stage.config);
    let partitions = usize::try_from(PARTITIONS).unwrap();
    says_again(&mut daemon, "assigned topic", partitions - 1).await;
    scene.fail(Api::Heartbeat, &[Code::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    says_again(&mut daemon, "assigned topic", 2 * partitions - 1).await;
    lock.rollback().await.unwrap();
    scene.finish(&mut daemon).await;
}

// --- answers that are errors, or late ------------------------------------------------------------

#[tokio::test]
async fn errors_in_answers_change_nothing() {
    use Code::{
        RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS as LOADING,
        RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE as NO_COORDINATOR,
        RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION as GENERATION,
        RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE as NO_LEADER,
        RD_KAFKA_RESP_ERR_NOT_COORDINATOR as NOT_COORDINATOR,
        RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER,
        RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS as REBALANCE,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT as TIMED_OUT,
        RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID as UNKNOWN_MEMBER,
        RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as UNKNOWN_TOPIC,
    };
    let scene = Scene::set("1h").await;
    scene.fail(Api::FindCoordinator, &[NO_COORDINATOR, LOADING]);
    scene.fail(Api::JoinGroup, &[LOADING, NOT_COORDINATOR]);
    scene.fail(Api::SyncGroup, &[REBALANCE]);
    scene.fail(Api::ListOffsets, &[NOT_LEADER, NO_LEADER, TIMED_OUT]);
    let mut daemon = Daemon::start(&scene.stage.config);
    says_again(&mut daemon, "reading topic", 0).await;
    // With the last two the member is out of its group, and joins again.
    let beats: [&'static [Code]; 3] = [&[NOT_COORDINATOR], &[GENERATION], &[UNKNOWN_MEMBER]];
    for (beat, (upto, part)) in beats.into_iter().zip(scene.parts(beats.len())) {
        scene.fail(
            Api::Fetch,
            &[NOT_LEADER, TIMED_OUT, UNKNOWN_TOPIC, NO_LEADER],
        );
        scene.fail(Api::ListOffsets, &[NOT_LEADER, TIMED_OUT]);
        scene.fail(Api::OffsetCommit, &[LOADING, NOT_COORDINATOR]);
        scene.produce(part);
        scene.fail(Api::Heartbeat, beat);
        scene.stage.saved(upto).await;
    }
    scene.finish(&mut daemon).await;
}

/// The client's own question for both ends at once forgets an error about the first where both
/// answers are there together, and gives the last offset for both: all between would count as gone.
#[tokio::test]
async fn an_error_about_one_end_of_a_log_is_not_taken_for_its_end() {
    let scene = Scene::set("1h").await;
    scene.produce(&scene.log);
    let settings = std::fs::read_to_string(&scene.stage.config).unwrap();
    let kafka = Settings::from_toml(&settings).unwrap().kafka;
    let client = consumer::without_group(&kafka).unwrap();
    let key = TopicPartition {
        topic: scene.knobs.topic.as_str().into(),
        partition: 0,
    };
    let whole = consumer::log_of(&client, &key, None, TIMEOUT).unwrap();
    assert!(whole.low == 0 && whole.high > 0, "{whole:?}");
    let mut errors = 0;
    for _ in 0..300 {
        scene.fail(
            Api::ListOffsets,
            &[Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
        );
        match consumer::log_of(&client, &key, None, TIMEOUT) {
            Ok(log) => assert_eq!(log, whole),
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 0, "no error has come through");
}

#[tokio::test]
async fn slow_answers_change_nothing() {
    let scene = Scene::set("1h").await;
    for node in 1..=NODES {
        let slow = scene
            .broker
            .ask(move |cluster| cluster.broker_round_trip_time(node, Duration::from_millis(300)));
        slow.unwrap().unwrap();
    }
    let mut daemon = Daemon::start(&scene.stage.config);
    for (upto, part) in scene.parts(2) {
        scene.produce(part);
        scene.stage.saved(upto).await;
    }
    scene.finish(&mut daemon).await;
}

// --- what a log holds ----------------------------------------------------------------------------

/// Nothing tells a message that a producer has sent twice from two of the same content.
#[tokio::test]
async fn a_message_that_is_in_the_log_twice_counts_twice() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let twice = |(i, record): (usize, Record)| vec![record; 1 + usize::from(i % 7 == 0)];
    let log = messages(SEED + 7, &story()[..6]).into_iter().enumerate();
    let log: Vec<Record> = log.flat_map(twice).collect();
    produce(&knobs.brokers, &topic, &log);
    run(&stage, &log).await;
    check(&stage, &Reference::of(&log, &stage.baseline_csv)).await;
}

#[tokio::test]
async fn every_codec_gives_the_same() {
    let topic = mock_topic();
    let knobs = Knobs::mock(&topic);
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story());
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"]
        .into_iter()
        .cycle();
    for (part, codec) in log.chunks(400).zip(codecs) {
        produce_as(codec, &knobs.brokers, &topic, part);
    }
    run(&stage, &log).await;
    check(&stage, &Reference::of(&log, &stage.baseline_csv)).await;
}

/// Runs one daemon over a log to its end.
async fn run(stage: &Stage, log: &[Record]) {
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(log.len()).await;
    let windows = Reference::of(log, &stage.baseline_csv).windows.len();
    stage.judged(windows).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

// --- on Apache Kafka -----------------------------------------------------------------------------

/// A producer with a transaction under way that holds the records given.
fn transaction(kafka: &Kafka, id: &str) -> BaseProducer {
    let producer: BaseProducer = kafka.client().set("transactional.id", id).create().unwrap();
    producer.init_transactions(TIMEOUT).unwrap();
    producer.begin_transaction().unwrap();
    producer
}

fn send_all(producer: &BaseProducer, topic: &str, records: &[Record]) {
    for record in records {
        send(producer, topic, record);
    }
    producer.flush(TIMEOUT).unwrap();
}

/// Aborted messages and the markers of transactions take offsets and count nothing. Behind a
/// transaction that is open nothing is read, and the lag says so.
#[tokio::test]
async fn only_what_was_committed_counts() {
    let Some(kafka) = Kafka::start_or_skip("kafka_faults::only_what_was_committed_counts") else {
        return;
    };
    let knobs = kafka_topic(kafka, PARTITIONS).await;
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED, &story());
    let (before, behind) = log.split_at(log.len() / 2);
    let producer = transaction(kafka, &knobs.topic);
    for part in before.chunks(500) {
        send_all(&producer, &knobs.topic, part);
        producer.commit_transaction(TIMEOUT).unwrap();
        producer.begin_transaction().unwrap();
        send_all(&producer, &knobs.topic, &part[..100]);
        producer.abort_transaction(TIMEOUT).unwrap();
        producer.begin_transaction().unwrap();
    }
    let mut daemon = Daemon::start(&stage.config);
    stage.saved(before.len()).await;

    let hanging = transaction(kafka, &format!("{}-hanging", knobs.topic));
    send_all(&hanging, &knobs.topic, &before[..100]);
    produce(&knobs.brokers, &knobs.topic, behind);
    until("the lag is seen", async || {
        daemon.metric("driftd_consumer_lag_records") >= behind.len() as f64
    })
    .await;
    let saved = "select sum(messages)::bigint from driftd.checkpoints";
    assert_eq!(
        stage.count(saved).await,
        i64::try_from(before.len()).unwrap()
    );
    hanging.abort_transaction(TIMEOUT).unwrap();
    stage.saved(log.len()).await;

    let reference = Reference::of(&log, &stage.baseline_csv);
    stage.judged(reference.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let pool = &stage.db.pool;
    check_windows(pool, &reference).await;
    check_scores(pool, &reference).await;
    check_episodes(pool, &reference).await;
    check_jobs(pool, &reference).await;
}

#[tokio::test]
async fn a_broker_that_is_killed_and_comes_back_changes_nothing() {
    let test = "kafka_faults::a_broker_that_is_killed_and_comes_back_changes_nothing";
    if Kafka::start_or_skip(test).is_none() {
        return;
    }
    let mut kafka = Kafka::start();
    let knobs = kafka_topic(&kafka, PARTITIONS).await;
    let stage = Stage::set(&knobs).await;
    stage.set_properties(&format!("{CLASSIC}{IMPATIENT}"));
    let log = messages(SEED, &story());
    let mut daemon = Daemon::start(&stage.config);
    for part in log.chunks(log.len().div_ceil(2)) {
        produce(&knobs.brokers, &knobs.topic, part);
        kafka.kill();
        kafka.start_again();
    }
    stage.saved(log.len()).await;
    let reference = Reference::of(&log, &stage.baseline_csv);
    stage.judged(reference.windows.len()).await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    check(&stage, &reference).await;
}

/// Takes the second half of partition 0 away, behind the back of its broker.
fn cut_in_half(kafka: &Kafka, topic: &str) {
    let segment = format!("data/{topic}-0/00000000000000000000.log");
    let segment = kafka.dir().join(segment);
    let length = segment.metadata().unwrap().len();
    let segment = std::fs::OpenOptions::new().write(true).open(segment);
    segment.unwrap().set_len(length / 2).unwrap();
}

/// What an election of a replica that lagged behind does: the end of a log is gone that was read
/// already. What was judged stays, and the topic stands still rather than reading other messages under the
/// same offsets.
#[tokio::test]
async fn a_log_that_has_lost_its_end_stops_its_topic() {
    let test = "kafka_faults::a_log_that_has_lost_its_end_stops_its_topic";
    if Kafka::start_or_skip(test).is_none() {
        return;
    }
    let mut kafka = Kafka::start();
    let knobs = kafka_topic(&kafka, PARTITIONS).await;
    let stage = Stage::set(&knobs).await;
    let log = messages(SEED + 9, &story()[..6]);
    produce(&knobs.brokers, &knobs.topic, &log);
    run(&stage, &log).await;
    let reference = Reference::of(&log, &stage.baseline_csv);
    check(&stage, &reference).await;

    kafka.kill();
    cut_in_half(&kafka, &knobs.topic);
    kafka.start_again();
    let mut daemon = Daemon::start(&stage.config);
    stage.topic_fails(&mut daemon, "the log was cut").await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let gaps = "select count(*) from driftd.gaps where partition = 0 and reason = 'truncated'";
    assert_eq!(stage.count(gaps).await, 1, "{}", daemon.log());
    check(&stage, &reference).await;
}

/// The same, and others have written on before driftd looks: the log is longer than what was read,
/// and only the leaders under which it was written tell that part of it are other messages.
#[tokio::test]
async fn a_log_that_was_cut_and_written_on_is_told_by_its_leaders() {
    let test = "kafka_faults::a_log_that_was_cut_and_written_on_is_told_by_its_leaders";
    if Kafka::start_or_skip(test).is_none() {
        return;
    }
    let mut kafka = Kafka::start();
    let knobs = kafka_topic(&kafka, 1).await;
    let stage = Stage::set(&knobs).await;
    stage.set_properties(&format!("{CLASSIC}\"statistics.interval.ms\" = 500\n"));
    let mut log = messages(SEED + 10, &story()[..6]);
    log.iter_mut().for_each(|record| record.partition = 0);
    let (first, second) = log.split_at(log.len() / 2);
    for batch in first.chunks(100) {
        produce(&knobs.brokers, &knobs.topic, batch);
    }
    run(&stage, first).await;
    let reference = Reference::of(first, &stage.baseline_csv);
    check(&stage, &reference).await;

    kafka.kill();
    cut_in_half(&kafka, &knobs.topic);
    kafka.start_again();
    let end = |kafka: &Kafka| {
        let client: BaseConsumer = kafka.client().create().unwrap();
        let ends = client.fetch_watermarks(&knobs.topic, 0, Duration::from_secs(20));
        ends.unwrap().1
    };
    let cut = end(&kafka);
    let read = i64::try_from(first.len()).unwrap();
    assert!((1..read).contains(&cut), "{cut}");
    produce(&knobs.brokers, &knobs.topic, second);
    let last = end(&kafka);
    assert!(last > read, "{last} messages, {read} were read");

    let mut daemon = Daemon::start(&stage.config);
    stage.topic_fails(&mut daemon, "the log was cut").await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
    let gaps = sqlx::query_as("select reason, from_offset from driftd.gaps");
    let gaps: Vec<(String, i64)> = gaps.fetch_all(&stage.db.pool).await.unwrap();
    assert_eq!(gaps, [("truncated".to_owned(), read)], "{}", daemon.log());
    check(&stage, &reference).await;

    // A person lets it go on: what was written after the cut is read, all of it.
    stage.rewrite("false_alarms = ", "on_gap = \"continue\"\nfalse_alarms = ");
    let mut daemon = Daemon::start(&stage.config);
    until("the log behind the cut is read", async || {
        let sql = "select generation, first_offset, next_offset from driftd.partition_progress";
        let stands: (i64, i64, i64) = sqlx::query_as(sql).fetch_one(&stage.db.pool).await.unwrap();
        stands == (2, cut, last)
    })
    .await;
    assert!(daemon.terminate().await.success(), "{}", daemon.log());
}

/// Two replicas that say they are the same member: one ends and says which property is to blame,
/// the other one reads everything.
async fn one_of_two_namesakes_ends(protocol: &str, test: &str) {
    let Some(kafka) = Kafka::start_or_skip(test) else {
        return;
    };
    let knobs = kafka_topic(kafka, PARTITIONS).await;
    let stage = Stage::set(&knobs).await;
    let name = "\"group.instance.id\" = \"one\"\n";
    stage.set_properties(&format!("{protocol}{name}"));
    let log = messages(SEED + 8, &story()[..6]);
    let mut first = Daemon::start(&stage.config);
    says_again(&mut first, "reading topic", 0).await;
    let mut second = Daemon::start(&stage.config);
    let mut ended = None;
    until("one of them has ended", async || {
        ended = [first.is_running(), second.is_running()]
            .iter()
            .position(|running| !running);
        ended.is_some()
    })
    .await;
    // The classic protocol lets the newer one in, the new protocol the one that is there.
    let is_classic = protocol.contains("session.timeout.ms");
    assert_eq!(ended, Some(usize::from(!is_classic)));
    let (mut ended, mut other) = if is_classic {
        (first, second)
    } else {
        (second, first)
    };
    let code = ended.ended().await.code();
    assert_eq!(
        code,
        Some(if is_classic { 2 } else { 1 }),
        "{}",
        ended.log()
    );
    assert!(
        ended
            .log()
            .contains("kafka.properties.\"group.instance.id\""),
        "{}",
        ended.log()
    );

    produce(&knobs.brokers, &knobs.topic, &log);
    stage.saved(log.len()).await;
    let reference = Reference::of(&log, &stage.baseline_csv);
    stage.judged(reference.windows.len()).await;
    assert!(other.terminate().await.success(), "{}", other.log());
    check(&stage, &reference).await;
}

#[tokio::test]
async fn of_two_namesakes_the_older_one_ends() {
    let test = "kafka_faults::of_two_namesakes_the_older_one_ends";
    one_of_two_namesakes_ends(CLASSIC, test).await;
}

#[tokio::test]
async fn of_two_namesakes_the_newer_one_ends_where_brokers_assign() {
    let test = "kafka_faults::of_two_namesakes_the_newer_one_ends_where_brokers_assign";
    one_of_two_namesakes_ends(BY_BROKERS, test).await;
}
