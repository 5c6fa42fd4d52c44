//! Tests of the binary with real processes, files and sockets.

mod agent;
mod up;
