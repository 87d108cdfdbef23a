//! What the kernel knows of a connection.
#![allow(unsafe_code)]

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// `tcpi_state` of a connection that is over: reset, or given up by the kernel.
const CLOSED: u8 = 7;
/// Sent again by the timer so often (the second time after about 0.6 s) and not acknowledged: not a packet lost by chance.
const IN_VAIN: u8 = 2;
/// And nothing at all heard of the other end for so long.
pub(super) const SILENCE: Duration = Duration::from_secs(1);

/// Why nothing goes over this connection any more; `None` while there is no reason to think so. A receiver that does not read
/// is none: its kernel answers.
pub(super) fn ailment(stream: &TcpStream) -> Option<String> {
    let info = tcp_info(stream)?;
    if info.tcpi_state == CLOSED {
        return Some("closed its connection".into());
    }
    let silence = Duration::from_millis(info.tcpi_last_ack_recv.into());
    let is_in_vain = info.tcpi_unacked > 0 && info.tcpi_retransmits >= IN_VAIN && silence >= SILENCE;
    is_in_vain.then(|| format!("has not answered for {:.1} s", silence.as_secs_f64()))
}

fn tcp_info(stream: &TcpStream) -> Option<libc::tcp_info> {
    // SAFETY: `tcp_info` is integers only, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len_bytes = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is alive and writable for `len_bytes`, which is its size; the kernel writes no more than that.
    let outcome = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len_bytes,
        )
    };
    // A kernel that knows fewer fields leaves the rest zero: then there is no ailment.
    (outcome == 0).then_some(info)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_receiver_that_does_not_read_is_no_ailment_and_a_reset_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        while std::io::Write::write(&mut &stream, &[0; 65536]).is_ok() {}
        assert_eq!(ailment(&stream), None);
        // Closed with bytes that nobody has read: a reset.
        drop(other);
        let started = std::time::Instant::now();
        while ailment(&stream).is_none() {
            assert!(started.elapsed() < Duration::from_secs(30), "a reset connection seems well");
            std::thread::yield_now();
        }
    }
}
