//! Requests at a constant rate, and a compiled program that answers them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A compiled backend: answers every request, `/slow` over two seconds and `/large` with 1 MiB. It notes the number of
/// every POST in the directory `seen`, if there is one.
pub(crate) fn backend() {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    // A container is reached from outside of its own loopback.
    let host = std::env::var("HOST").unwrap_or_else(|_| "127.0.0.1".into());
    let listener = TcpListener::bind((&host[..], port)).unwrap();
    let seen = std::fs::OpenOptions::new().create(true).append(true).open("seen/posts").ok().map(Arc::new);
    for stream in listener.incoming().flatten() {
        let seen = seen.clone();
        std::thread::spawn(move || converse(stream, seen.as_deref()));
    }
}

/// A request, as the load below makes them: HTTP/1.1 with known lengths.
pub(crate) struct Asked {
    first: String,
    pub(crate) number: u32,
}

impl Asked {
    pub(crate) fn read(reader: &mut BufReader<TcpStream>) -> Option<Self> {
        let (mut asked, mut length) = (Self { first: String::new(), number: 0 }, 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(text) = line.strip_prefix("content-length:") {
                length = text.trim().parse().ok()?;
            } else if let Some(text) = line.strip_prefix("x-number:") {
                asked.number = text.trim().parse().ok()?;
            }
            if asked.first.is_empty() {
                asked.first = line;
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        Some(asked)
    }
}

/// One connection of the backend.
fn converse(stream: TcpStream, seen: Option<&std::fs::File>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    let large = "x".repeat(1 << 20);
    loop {
        let asked = Asked::read(&mut reader)?;
        if let (Some(mut seen), true) = (seen, asked.first.starts_with("post")) {
            // One write: copies of one slot append to one file.
            seen.write_all(format!("{}\n", asked.number).as_bytes()).ok()?;
        }
        let (pieces, pause) = if asked.first.contains("/slow") {
            (20, Duration::from_millis(100))
        } else {
            (1, Duration::ZERO)
        };
        let text = if asked.first.contains("/large") { &large[..] } else { &large[..100] };
        write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len() * pieces).ok()?;
        for _ in 0..pieces {
            writer.write_all(text.as_bytes()).ok()?;
            if !pause.is_zero() {
                std::thread::park_timeout(pause);
            }
        }
    }
}

/// What a load saw.
#[derive(Default)]
pub(crate) struct Load {
    pub(crate) requests: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) stop: AtomicBool,
}

/// Requests at a constant rate over connections that are kept: half of them POST, every twentieth two seconds long.
pub(crate) fn run(router: SocketAddr, rate: u32, seen: &Load) {
    let threads = 60;
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut kept = None;
                for turn in 0_u32.. {
                    if seen.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let number = turn * threads + thread;
                    let due = Duration::from_secs(1) * number / rate;
                    std::thread::park_timeout(due.saturating_sub(began.elapsed()));
                    seen.requests.fetch_add(1, Ordering::Relaxed);
                    if let Err(what) = request(router, number, &mut kept) {
                        kept = None;
                        seen.failed.fetch_add(1, Ordering::Relaxed);
                        println!("  request {number} failed: {what}");
                    }
                }
            });
        }
    });
}

pub(crate) fn request(
    router: SocketAddr,
    number: u32,
    kept: &mut Option<BufReader<TcpStream>>,
) -> std::io::Result<()> {
    let reader = if let Some(reader) = kept {
        reader
    } else {
        let stream = TcpStream::connect(router)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        kept.insert(BufReader::new(stream))
    };
    let path = if number % 20 == 7 { "/slow" } else { "/" };
    let (method, body) =
        if number.is_multiple_of(2) { ("POST", "y".repeat(1000)) } else { ("GET", String::new()) };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: load.localhost\r\nX-Number: {number}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    reader.get_mut().write_all(format!("{head}{body}").as_bytes())?;
    let (mut status, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if status.is_empty() {
            line.clone_into(&mut status);
        }
        if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut answer = vec![0; length];
    reader.read_exact(&mut answer)?;
    if status.contains(" 200 ") { Ok(()) } else { Err(std::io::Error::other(status)) }
}
