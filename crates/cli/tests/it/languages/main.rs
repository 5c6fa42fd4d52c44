//! A server that says hello.

use std::io::{BufRead, BufReader, Write};

fn main() -> std::io::Result<()> {
    let listener = std::net::TcpListener::bind("0.0.0.0:8080")?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
        lines.take_while(|line| !line.is_empty()).for_each(drop);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\nrust says hello").ok();
    }
    Ok(())
}
