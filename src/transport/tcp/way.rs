//! How the bytes of a link get across, in one direction: stripes over the sockets of one rail, or parcels over several rails.
#![forbid(unsafe_code)]

use super::rails::{RailsIn, RailsOut};
use super::stripes::Stripes;
use crate::error::Result;
use crate::memory::Span;
use crate::transport::Interest;

/// For what a link sends.
pub(super) enum Out {
    Stripes(Stripes),
    Rails(RailsOut),
}

impl Out {
    /// The leading part of `span` that may be written at once, behind `before_bytes` others.
    pub(super) fn here(&self, span: Span, before_bytes: usize) -> Span {
        match self {
            Out::Stripes(stripes) => stripes.here(span, before_bytes),
            Out::Rails(_) => span,
        }
    }

    /// Takes what there is room for of `first` and then of `second`: less than all of it only when there is no more.
    pub(super) fn write(&mut self, first: Span, second: Span) -> Result<usize> {
        match self {
            Out::Stripes(stripes) => stripes.write(first, second),
            Out::Rails(rails) => rails.write(first, second),
        }
    }

    /// [`Out::write`] of plain bytes, whatever the stripes.
    pub(super) fn write_bytes(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Out::Stripes(stripes) => stripes.write_bytes(bytes),
            Out::Rails(rails) => rails.write_bytes(bytes),
        }
    }

    /// True when the kernel has all that was taken.
    pub(super) fn flush(&mut self) -> Result<bool> {
        match self {
            Out::Stripes(_) => Ok(true),
            Out::Rails(rails) => rails.flush(),
        }
    }

    pub(super) fn interest(&self) -> Interest {
        match self {
            Out::Stripes(stripes) => Interest { fd: stripes.raw_fd(), readable: false, writable: true },
            Out::Rails(rails) => rails.interest(),
        }
    }
}

/// For what a link receives.
pub(super) enum In {
    Stripes(Stripes),
    Rails(RailsIn),
}

impl In {
    /// The leading part of `span` that may be read at once, behind `before_bytes` others.
    pub(super) fn here(&self, span: Span, before_bytes: usize) -> Span {
        match self {
            In::Stripes(stripes) => stripes.here(span, before_bytes),
            In::Rails(_) => span,
        }
    }

    /// Fills what has come of `first` and then of `second`.
    pub(super) fn read(&mut self, first: Span, second: Span) -> Result<usize> {
        match self {
            In::Stripes(stripes) => stripes.read(first, second),
            In::Rails(rails) => rails.read(first, second),
        }
    }

    /// [`In::read`] into plain bytes.
    pub(super) fn read_bytes(&mut self, room: &mut [u8]) -> Result<usize> {
        match self {
            In::Stripes(stripes) => stripes.read_bytes(room),
            In::Rails(rails) => rails.read_bytes(room),
        }
    }

    /// Both ends of the way, for people.
    pub(super) fn ends(&self) -> String {
        match self {
            In::Stripes(stripes) => stripes.ends(),
            In::Rails(rails) => rails.ends(),
        }
    }

    pub(super) fn interest(&self) -> Interest {
        match self {
            In::Stripes(stripes) => Interest { fd: stripes.raw_fd(), readable: true, writable: false },
            In::Rails(rails) => rails.interest(),
        }
    }
}
