//! Scans the bytes of a job without decoding it, so that a job can be refused before it is decoded into something much
//! larger than its bytes.

use std::ops::ControlFlow;

/// Field numbers of `ImageJob`.
const JOB_ID: u64 = 1;
const S3: u64 = 3;
const INLINE: u64 = 4;
const TASKS: u64 = 5;

/// The outermost fields of a job that are needed for the limits. Invalid or truncated bytes are scanned up to the error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct JobScan<'a> {
    /// The job id; the last one if there are several, as in the decoder.
    pub(crate) job_id: Option<&'a str>,
    /// The bytes of the S3 object, if it is the last source.
    pub(crate) s3: Option<&'a [u8]>,
    /// The number of tasks.
    pub(crate) tasks: usize,
    /// The bytes of all tasks together.
    pub(crate) task_bytes: usize,
}

impl<'a> JobScan<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let mut scan = Self::default();
        let mut rest = bytes;
        let mut depth = 0usize;
        while !rest.is_empty() {
            match scan.field(rest, depth) {
                ControlFlow::Continue((left, now)) => (rest, depth) = (left, now),
                ControlFlow::Break(()) => break,
            }
        }
        scan
    }

    /// Scans one field, and returns the bytes after it with the new depth. `depth` counts the groups around the field:
    /// fields within a group are not the job's.
    fn field(&mut self, bytes: &'a [u8], depth: usize) -> ControlFlow<(), (&'a [u8], usize)> {
        let (key, rest) = varint(bytes)?;
        match key & 7 {
            0 => ControlFlow::Continue((varint(rest)?.1, depth)),
            1 => ControlFlow::Continue((skip(rest, 8)?.1, depth)),
            5 => ControlFlow::Continue((skip(rest, 4)?.1, depth)),
            3 => ControlFlow::Continue((rest, depth + 1)),
            4 if depth > 0 => ControlFlow::Continue((rest, depth - 1)),
            2 => {
                let (length, rest) = varint(rest)?;
                let (value, rest) = skip(rest, usize::try_from(length).unwrap_or(usize::MAX))?;
                match key >> 3 {
                    JOB_ID if depth == 0 => self.job_id = std::str::from_utf8(value).ok(),
                    S3 if depth == 0 => self.s3 = Some(value),
                    INLINE if depth == 0 => self.s3 = None,
                    TASKS if depth == 0 => {
                        self.tasks += 1;
                        self.task_bytes += value.len();
                    }
                    _ => {}
                }
                ControlFlow::Continue((rest, depth))
            }
            _ => ControlFlow::Break(()),
        }
    }
}

fn varint(bytes: &[u8]) -> ControlFlow<(), (u64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return ControlFlow::Continue((value, &bytes[i + 1..]));
        }
    }
    ControlFlow::Break(())
}

fn skip(bytes: &[u8], count: usize) -> ControlFlow<(), (&[u8], &[u8])> {
    match bytes.split_at_checked(count) {
        Some(parts) => ControlFlow::Continue(parts),
        None => ControlFlow::Break(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::job;
    use crate::v1::image_job::Source;
    use prost::Message;

    #[test]
    fn a_scan_finds_what_the_decoder_would() {
        let bytes = job().encode_to_vec();
        let sizes: usize = job().tasks.iter().map(Message::encoded_len).sum();
        let Some(Source::S3(object)) = job().source else { panic!("it names an object") };
        let object = object.encode_to_vec();
        let wanted = JobScan { job_id: Some("job-1"), s3: Some(&object), tasks: 2, task_bytes: sizes };
        assert_eq!(JobScan::of(&bytes), wanted);
    }

    #[test]
    fn a_truncated_job_ends_the_scan() {
        let bytes = job().encode_to_vec();
        let sizes: usize = job().tasks.iter().map(Message::encoded_len).sum();
        for cut in 0..bytes.len() {
            let scan = JobScan::of(&bytes[..cut]);
            assert!(scan.tasks <= 2 && scan.task_bytes <= sizes, "{cut}: {scan:?}");
        }
        assert_eq!(JobScan::of(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), JobScan::default());
        assert_eq!(JobScan::of(&[0x0b; 100_000]).tasks, 0, "groups within groups need no stack");
    }

    #[test]
    fn fields_within_groups_are_not_the_jobs() {
        let mut bytes = vec![0x7b];
        bytes.extend(job().encode_to_vec());
        bytes.push(0x7c);
        assert_eq!(JobScan::of(&bytes), JobScan::default());
    }
}
