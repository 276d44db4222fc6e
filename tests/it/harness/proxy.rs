//! A proxy between driftd and a server, in which the network fails as a test wants it to: delays,
//! cuts, connections that are open and dead, and the answer to one message that is lost.
//!
//! It runs on threads of its own, so that a test that blocks does not hold it up. A Postgres on a
//! unix socket is reached over TCP by it. For a Kafka broker, the broker has to advertise the
//! proxy's address.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long a thread sleeps before it looks at what the test wants now.
const GLANCE: Duration = Duration::from_millis(5);
/// What a client has sent is remembered up to this.
const REMEMBERED: usize = 16 << 20;

/// Where connections go.
#[derive(Debug, Clone)]
pub(crate) enum Upstream {
    #[allow(
        dead_code,
        reason = "for brokers; the tests' Postgres servers have unix sockets"
    )]
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They pass.
    Open,
    /// Nothing passes, nothing is lost: as if there were no bandwidth left.
    #[allow(
        dead_code,
        reason = "for brokers; to Postgres, `HalfOpen` is the harder case"
    )]
    Stalled,
    /// What is sent now is swallowed, and a connection of which something was swallowed stays
    /// open and dead. New ones are accepted and are dead from the first.
    HalfOpen,
    /// Connections are cut, and new ones as soon as they are accepted.
    Refused,
}

/// Which part of an exchange is lost together with its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The server never hears of it.
    Request,
    /// The server has done it, and the client never hears of that.
    Answer,
}

/// Tells by what a client has sent since its last `BEGIN`, or on this connection if there was none,
/// whether this is the moment.
type Moment = Box<dyn Fn(&[u8]) -> bool + Send>;

struct State {
    upstream: Mutex<Upstream>,
    flow: Mutex<Flow>,
    /// To the server and back.
    latency: Mutex<[Duration; 2]>,
    trap: Mutex<Option<(Moment, Lost)>>,
    /// Raised by a cut: connections of an earlier age end.
    age: AtomicUsize,
    ended: AtomicBool,
}

/// A listener on loopback that passes on what it is given; dropping it ends it.
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    listener: Option<thread::JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free port.
    pub(crate) fn to(upstream: Upstream) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            upstream: Mutex::new(upstream),
            flow: Mutex::new(Flow::Open),
            latency: Mutex::default(),
            trap: Mutex::new(None),
            age: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let listening = Arc::clone(&state);
        let listener = thread::spawn(move || listening.listen(&listener));
        Self {
            address,
            state,
            listener: Some(listener),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go there; [`Proxy::cut`] ends those that there are.
    pub(crate) fn point_to(&self, upstream: Upstream) {
        *self.state.upstream.lock().unwrap() = upstream;
    }

    /// What becomes of bytes from now on.
    pub(crate) fn flow(&self, flow: Flow) {
        *self.state.flow.lock().unwrap() = flow;
        if flow == Flow::Refused {
            self.cut();
        }
    }

    /// Ends all connections at once.
    pub(crate) fn cut(&self) {
        self.state.age.fetch_add(1, Ordering::SeqCst);
    }

    /// Delays every piece of what is sent, to the server and back.
    pub(crate) fn latency(&self, there: Duration, back: Duration) {
        *self.state.latency.lock().unwrap() = [there, back];
    }

    /// Once, when `moment` says so of what a client has sent since its last `BEGIN`: cuts its
    /// connection, and the request or its answer is lost.
    pub(crate) fn lose(&self, lost: Lost, moment: impl Fn(&[u8]) -> bool + Send + 'static) {
        *self.state.trap.lock().unwrap() = Some((Box::new(moment), lost));
    }

    /// Whether what [`Proxy::lose`] waits for has happened.
    pub(crate) fn has_lost(&self) -> bool {
        self.state.trap.lock().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.cut();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl State {
    fn listen(self: Arc<Self>, listener: &TcpListener) {
        while !self.ended.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((client, _)) => {
                    let state = Arc::clone(&self);
                    thread::spawn(move || state.connect(client));
                }
                Err(_) => thread::sleep(GLANCE),
            }
        }
    }

    fn flow(&self) -> Flow {
        *self.flow.lock().unwrap()
    }

    /// Starts the two directions of a connection; an upstream that is not there ends it.
    fn connect(self: Arc<Self>, client: TcpStream) {
        client.set_nonblocking(false).unwrap();
        let _ = client.set_nodelay(true);
        let upstream = self.upstream.lock().unwrap().clone();
        if self.flow() == Flow::Refused {
            return;
        }
        let Ok(server) = Stream::connect(&upstream) else {
            return;
        };
        let connection = Arc::new(Connection {
            age: self.age.load(Ordering::SeqCst),
            dead: AtomicBool::new(false),
            over: AtomicBool::new(false),
            answer_lost: AtomicBool::new(false),
            state: self,
        });
        let client = Stream::Tcp(client);
        let (from, to) = (client.again(), server.again());
        let there = Arc::clone(&connection);
        thread::spawn(move || there.pump(from, to, 0));
        connection.pump(server, client, 1);
    }
}

/// One connection, of which each direction has a thread.
struct Connection {
    state: Arc<State>,
    age: usize,
    /// Something of it was swallowed.
    dead: AtomicBool,
    over: AtomicBool,
    /// The next answer is not passed on.
    answer_lost: AtomicBool,
}

impl Connection {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) || self.age < self.state.age.load(Ordering::SeqCst)
    }

    /// Passes on what comes, until either side or the test ends it.
    fn pump(&self, mut from: Stream, mut to: Stream, direction: usize) {
        let mut piece = vec![0; 64 << 10];
        let mut sent = Vec::new();
        while !self.is_over() {
            let got = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(got) => &piece[..got],
                Err(error) if is_pause(&error) => continue,
                Err(_) => break,
            };
            let latency = self.state.latency.lock().unwrap()[direction];
            thread::sleep(latency);
            while self.state.flow() == Flow::Stalled && !self.is_over() {
                thread::sleep(GLANCE);
            }
            if self.swallows() {
                continue;
            }
            let passed = match direction {
                0 => self.request(got, &mut sent, &mut to),
                _ => !self.answer_lost.load(Ordering::SeqCst) && to.write_all(got).is_ok(),
            };
            if !passed {
                break;
            }
        }
        // Where a connection is dead, neither side hears that the other one has gone.
        while self.dead.load(Ordering::SeqCst) && !self.is_over() {
            thread::sleep(GLANCE);
        }
        self.over.store(true, Ordering::SeqCst);
        from.close();
        to.close();
    }

    fn swallows(&self) -> bool {
        if self.state.flow() == Flow::HalfOpen {
            self.dead.store(true, Ordering::SeqCst);
        }
        self.dead.load(Ordering::SeqCst)
    }

    /// Passes on what the client sends; false where that was cut.
    fn request(&self, got: &[u8], sent: &mut Vec<u8>, to: &mut Stream) -> bool {
        sent.extend_from_slice(got);
        if let Some(begin) = last(sent, b"BEGIN") {
            sent.drain(..begin);
        }
        sent.drain(..sent.len().saturating_sub(REMEMBERED));
        let mut trap = self.state.trap.lock().unwrap();
        let lost = match trap.as_ref() {
            Some((moment, lost)) if moment(sent) => Some(*lost),
            _ => None,
        };
        if lost == Some(Lost::Answer) {
            self.answer_lost.store(true, Ordering::SeqCst);
        }
        let passed = lost != Some(Lost::Request) && to.write_all(got).is_ok();
        if lost.is_some() {
            *trap = None;
        }
        passed
    }
}

fn last(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .rposition(|part| part == pattern)
}

fn is_pause(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    [WouldBlock, TimedOut, Interrupted].contains(&error.kind())
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(upstream: &Upstream) -> io::Result<Self> {
        Ok(match upstream {
            Upstream::Tcp(address) => Self::Tcp(TcpStream::connect(address)?),
            Upstream::Unix(path) => Self::Unix(UnixStream::connect(path)?),
        })
    }

    fn again(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().unwrap()),
            Self::Unix(stream) => Self::Unix(stream.try_clone().unwrap()),
        }
    }

    fn close(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Ends after a glance, so that a thread hears what the test wants.
    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(GLANCE))?;
                stream.read(piece)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(GLANCE))?;
                stream.read(piece)
            }
        }
    }

    fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(piece),
            Self::Unix(stream) => stream.write_all(piece),
        }
    }
}
