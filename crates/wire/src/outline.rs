//! What a job's bytes hold, found without building the job: so that a message is not turned into something much larger
//! than itself before it can be refused.

use std::ops::ControlFlow;

/// Fields of `ImageJob`.
const JOB_ID: u64 = 1;
const S3: u64 = 3;
const INLINE: u64 = 4;
const TASKS: u64 = 5;

/// A job's outermost fields as far as limits go by them. Of bytes that break off or are no protobuf: up to there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Outline<'a> {
    /// The last job id, as the decoder would take it.
    pub(crate) job_id: Option<&'a str>,
    /// The bytes of the object, if it is the last source.
    pub(crate) s3: Option<&'a [u8]>,
    /// Number of tasks.
    pub(crate) tasks: usize,
    /// Bytes of all tasks together.
    pub(crate) task_bytes: usize,
}

impl<'a> Outline<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let mut outline = Self::default();
        let mut rest = bytes;
        let mut depth = 0usize;
        while !rest.is_empty() {
            match outline.field(rest, depth) {
                ControlFlow::Continue((left, now)) => (rest, depth) = (left, now),
                ControlFlow::Break(()) => break,
            }
        }
        outline
    }

    /// Passes over one field; `depth` counts the groups around it, whose fields are none of the job's.
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
    fn an_outline_is_what_the_decoder_would_find() {
        let bytes = job().encode_to_vec();
        let sizes: usize = job().tasks.iter().map(Message::encoded_len).sum();
        let Some(Source::S3(object)) = job().source else { panic!("it names an object") };
        let object = object.encode_to_vec();
        let wanted = Outline { job_id: Some("job-1"), s3: Some(&object), tasks: 2, task_bytes: sizes };
        assert_eq!(Outline::of(&bytes), wanted);
    }

    #[test]
    fn bytes_that_break_off_or_are_none_end_the_outline() {
        let bytes = job().encode_to_vec();
        for cut in 0..bytes.len() {
            assert!(Outline::of(&bytes[..cut]).tasks <= 2);
        }
        assert_eq!(Outline::of(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), Outline::default());
        assert_eq!(Outline::of(&[0x0b; 100_000]).tasks, 0, "groups within groups need no stack");
    }

    #[test]
    fn fields_within_groups_are_not_the_jobs() {
        let mut bytes = vec![0x7b];
        bytes.extend(job().encode_to_vec());
        bytes.push(0x7c);
        assert_eq!(Outline::of(&bytes), Outline::default());
    }
}
