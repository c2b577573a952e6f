//! The convention for HTTP: a service that follows it, and a gateway in front.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redsync::{Fence, FenceCheck};

use crate::claims::{Refused, Resource, User, fence};
use crate::page::block;

const HEADER: &str = "Redsync-Fence";

/// A service with one account, which is reached by a gateway.
pub(crate) struct Bank {
    gateway: Server,
    service: Server,
}

impl Bank {
    pub(crate) fn new() -> Self {
        let account = Mutex::new(Account::default());
        let service = Server::start(move |request| account.lock().unwrap().answer(request));
        let behind = service.address;
        let gateway = Server::start(move |request| forward(request, behind));
        Self { gateway, service }
    }
}

impl Resource for Bank {
    fn user(&self) -> Box<dyn User + '_> {
        Box::new(Caller { bank: self })
    }
}

struct Caller<'a> {
    bank: &'a Bank,
}

impl Caller<'_> {
    fn ask(&self, method: &str, fence: Fence, body: String) -> Result<String, Refused> {
        let headers = vec![(HEADER.to_owned(), fence.to_string())];
        let request = Request { method: method.to_owned(), path: "/accounts/7".to_owned(), headers, body };
        let answer = exchange(self.bank.gateway.address, &request.to_text());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        match head.split(' ').nth(1).unwrap() {
            "200" => Ok(body.to_owned()),
            "412" => {
                let highest = head.lines().find_map(|line| line.strip_prefix("Redsync-Fence: ")).unwrap();
                assert!(highest.parse::<Fence>().unwrap() > fence);
                Err(Refused)
            }
            other => panic!("{other}"),
        }
    }
}

impl User for Caller<'_> {
    fn write(&mut self, number: u64, fence: Fence) -> Result<(), Refused> {
        self.ask("PUT", fence, number.to_string()).map(drop)
    }

    fn read(&mut self, fence: Fence) -> Result<u64, Refused> {
        self.ask("GET", fence, String::new()).map(|body| body.parse().unwrap())
    }
}

#[derive(Default)]
struct Account {
    fences: FenceCheck,
    balance: String,
}

impl Account {
    fn answer(&mut self, request: &Request) -> Answer {
        let sent: Vec<_> =
            request.headers.iter().filter(|header| header.0.eq_ignore_ascii_case(HEADER)).collect();
        let fence = match sent[..] {
            [] => return Answer::of("428 Precondition Required"),
            [(_, text)] => text.parse::<Fence>(),
            _ => return Answer::of("400 Bad Request"),
        };
        let Ok(fence) = fence else { return Answer::of("400 Bad Request") };
        if let Err(stale) = self.fences.admit(fence) {
            return Answer { highest: Some(stale.highest()), ..Answer::of("412 Precondition Failed") };
        }
        if request.method == "PUT" {
            self.balance.clone_from(&request.body);
        }
        Answer { body: self.balance.clone(), ..Answer::of("200 OK") }
    }
}

/// What a gateway does: a request of its own, with the header passed on.
fn forward(request: &Request, behind: SocketAddr) -> Answer {
    let mut passed_on = request.clone();
    passed_on.headers.retain(|header| header.0.eq_ignore_ascii_case(HEADER));
    passed_on.headers.push(("Via".to_owned(), "1.1 gateway".to_owned()));
    Answer { verbatim: Some(exchange(behind, &passed_on.to_text())), ..Answer::default() }
}

#[derive(Clone)]
struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn to_text(&self) -> String {
        let Self { method, path, headers, body } = self;
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: bank.example\r\n");
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        let _ = write!(text, "Content-Length: {}\r\n\r\n{body}", body.len());
        text
    }

    fn read(input: &mut impl BufRead) -> std::io::Result<Self> {
        let mut line = || {
            let mut line = String::new();
            input.read_line(&mut line).map(|_| line.trim_end().to_owned())
        };
        let first = line()?;
        let mut words = first.split(' ').map(str::to_owned);
        let mut headers = Vec::new();
        while let Some((name, value)) = line()?.split_once(':') {
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let by_name: HashMap<_, _> =
            headers.iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
        let length = by_name.get("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        input.read_exact(&mut body)?;
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        headers.retain(|header| !["host", "content-length"].contains(&header.0.to_lowercase().as_str()));
        Ok(Self { method, path, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

#[derive(Default)]
struct Answer {
    status: &'static str,
    highest: Option<Fence>,
    body: String,
    /// Of the service behind a gateway, in place of the rest.
    verbatim: Option<String>,
}

impl Answer {
    fn of(status: &'static str) -> Self {
        Self { status, ..Self::default() }
    }

    fn into_text(self) -> String {
        let Self { status, highest, body, verbatim } = self;
        let highest = highest.map(|highest| format!("{HEADER}: {highest}\r\n")).unwrap_or_default();
        verbatim.unwrap_or_else(|| {
            let length = body.len();
            format!(
                "HTTP/1.1 {status}\r\n{highest}Cache-Control: no-store\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        })
    }
}

/// A server that answers one request on each connection.
struct Server {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let accepting = thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                thread::scope(|scope| {
                    while let Ok((mut stream, _)) = listener.accept() {
                        if is_over.load(Ordering::SeqCst) {
                            break;
                        }
                        let answer = &answer;
                        scope.spawn(move || {
                            stream.set_read_timeout(Some(PATIENCE)).unwrap();
                            let request = Request::read(&mut BufReader::new(&stream)).unwrap();
                            stream.write_all(answer(&request).into_text().as_bytes()).unwrap();
                        });
                    }
                });
            }
        });
        Self { address, is_over, accepting: Some(accepting) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

/// Sends `request` and reads what comes until the end.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const PATIENCE: Duration = Duration::from_secs(10);

/// The messages of the page, with the line ends that they have on the wire.
fn message(start: &str) -> String {
    let (head, body) = block("http", start).split_once("\n\n").unwrap();
    format!("{}\r\n\r\n{}", head.replace('\n', "\r\n"), body.trim_end())
}

#[test]
fn a_late_request_is_answered_as_on_the_page() {
    let bank = Bank::new();
    let request = message("PUT");
    assert!(exchange(bank.gateway.address, &request).starts_with("HTTP/1.1 200 OK\r\n"));
    let mut later = Caller { bank: &bank };
    assert_eq!(later.read(fence(1)), Ok(110));
    assert_eq!(exchange(bank.gateway.address, &request), message("HTTP/1.1 412"));
}

#[test]
fn a_request_without_a_fence_is_answered_as_on_the_page() {
    let bank = Bank::new();
    let request = message("PUT").replace("Redsync-Fence: 1700000000000000\r\n", "");
    for address in [bank.gateway.address, bank.service.address] {
        assert_eq!(exchange(address, &request), message("HTTP/1.1 428"));
    }
}

#[test]
fn a_request_with_something_else_in_the_place_of_a_fence_is_a_bad_one() {
    let bank = Bank::new();
    let asked = |fences: &str| {
        let request = message("PUT").replace("Redsync-Fence: 1700000000000000\r\n", fences);
        exchange(bank.gateway.address, &request)
    };
    for no_fence in ["", "x", "-1", "1.5", "0", "9007199254740992", "1, 2", "+1", "0x10"] {
        let answer = asked(&format!("Redsync-Fence: {no_fence}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{no_fence:?}: {answer}");
    }
    let answer = asked("Redsync-Fence: 1\r\nRedsync-Fence: 2\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(asked("redsync-fence: 1\r\n").starts_with("HTTP/1.1 200 OK\r\n"), "names have no case");
}
