//! Bytes in order to a device, through pinned memory.

use std::sync::Arc;

use crate::cuda::{CudaDevice, DeviceAddress, DeviceError, Event, Pinned, Stream};

/// Buffers that take turns: one is filled while the others are copied.
const BUFFERS: usize = 3;
/// Of each: long enough that a copy takes far longer than ordering it.
const BUFFER_BYTES_MAX: usize = 16 << 20;

/// Copies one stretch of bytes from its start to its end.
pub(super) struct Upload<'a> {
    stream: Stream,
    buffers: Vec<(Pinned, Event)>,
    /// Where the next byte goes: the buffer, and the place in it.
    current: usize,
    filled: usize,
    /// Where the current buffer goes.
    to: DeviceAddress,
    sent: u64,
    goes_on: &'a mut dyn FnMut() -> bool,
}

impl<'a> Upload<'a> {
    /// `goes_on` is asked while a copy is waited for.
    pub(super) fn new(
        device: &Arc<CudaDevice>,
        (to, bytes): (DeviceAddress, u64),
        goes_on: &'a mut dyn FnMut() -> bool,
    ) -> Result<Self, DeviceError> {
        let each = usize::try_from(bytes).unwrap_or(usize::MAX).min(BUFFER_BYTES_MAX);
        let buffer = |_| Ok((Pinned::for_uploads(device, each)?, Event::new(device)?));
        let buffers = (0..BUFFERS).map(buffer).collect::<Result<_, DeviceError>>()?;
        Ok(Self { stream: Stream::new(device)?, buffers, current: 0, filled: 0, to, sent: 0, goes_on })
    }

    /// Bytes so far.
    fn at(&self) -> u64 {
        self.sent + self.filled as u64
    }

    /// Zeros up to this byte.
    pub(super) fn pad_to(&mut self, byte: u64) -> Result<(), DeviceError> {
        while self.at() < byte {
            let zeros = [0; 256];
            let missing = usize::try_from(byte - self.at()).unwrap_or(zeros.len());
            self.write(&zeros[..missing.min(zeros.len())])?;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), DeviceError> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.filled(now.len())?;
            bytes = later;
        }
        Ok(())
    }

    /// Where the next bytes go, as far as the current buffer reaches; never empty. Tell [`filled`](Self::filled) of them.
    pub(super) fn room(&mut self) -> Result<&mut [u8], DeviceError> {
        let (buffer, done) = &mut self.buffers[self.current];
        if self.filled == 0 {
            done.wait(self.goes_on)?;
        }
        Ok(&mut buffer.bytes_mut()[self.filled..])
    }

    /// So many bytes were written at the beginning of the room.
    pub(super) fn filled(&mut self, bytes: usize) -> Result<(), DeviceError> {
        self.filled += bytes;
        let is_full = self.filled == self.buffers[self.current].0.bytes().len();
        if is_full { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), DeviceError> {
        let (buffer, done) = &self.buffers[self.current];
        // SAFETY: the stretch is the caller's own, and the buffer is not written again before its event has been waited for,
        // nor dropped: `finish` waits for all of them, and where that fails, the device is lost and frees nothing.
        unsafe { self.stream.copy_in(self.to + self.sent, buffer, self.filled)? };
        self.stream.record(done)?;
        self.sent += self.filled as u64;
        (self.filled, self.current) = (0, (self.current + 1) % self.buffers.len());
        Ok(())
    }

    /// Sends the rest and waits for all of it.
    pub(super) fn finish(mut self) -> Result<(), DeviceError> {
        if self.filled > 0 {
            self.send()?;
        }
        self.wait_for_all()
    }

    fn wait_for_all(&mut self) -> Result<(), DeviceError> {
        let goes_on = &mut *self.goes_on;
        self.buffers.iter().try_for_each(|(_, done)| done.wait(goes_on))
    }
}

impl Drop for Upload<'_> {
    /// Where reading a checkpoint failed half way, copies are still on their way from the buffers.
    fn drop(&mut self) {
        let _ = self.wait_for_all();
    }
}
