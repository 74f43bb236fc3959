//! Writes PyTorch files as torch does.

use std::ops::Range;

use safetensors::SafeTensors;

/// A file and the ranges of its parts.
#[derive(Clone)]
pub(crate) struct Pickled {
    pub(crate) bytes: Vec<u8>,
    pub(crate) pickle: Range<usize>,
    pub(crate) directory: Range<usize>,
    storages: Vec<(String, Vec<u8>)>,
}

impl Pickled {
    /// The file with another pickle.
    pub(crate) fn with_pickle(&self, pickle: &[u8]) -> Vec<u8> {
        archive(pickle, &self.storages).bytes
    }
}

/// The tensors of a safetensors file, each in a storage of its own.
pub(crate) fn of_safetensors(file: &[u8]) -> Pickled {
    let mut tensors = SafeTensors::deserialize(file).unwrap().tensors();
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut pickle = dict();
    let mut storages = Vec::new();
    for (number, (name, view)) in tensors.iter().enumerate() {
        let key = number.to_string();
        let mut strides = vec![1; view.shape().len()];
        for i in (1..strides.len()).rev() {
            strides[i - 1] = strides[i] * view.shape()[i];
        }
        let [shape, strides] = [view.shape(), &strides].map(|sizes| sizes.iter().map(|size| *size as i64).collect());
        pickle.extend(entry(name, &Tensor { class: "FloatStorage", key: &key, offset: 0, shape, strides }));
        storages.push((key, view.data().to_vec()));
    }
    pickle.extend(b"u.");
    archive(&pickle, &storages)
}

/// A tensor as a pickle describes it.
#[derive(Clone)]
pub(crate) struct Tensor<'a> {
    pub(crate) class: &'a str,
    pub(crate) key: &'a str,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// The start of a dictionary. Entries follow, then `u`.
pub(crate) fn dict() -> Vec<u8> {
    b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(".to_vec()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn number(number: i64) -> Vec<u8> {
    match number {
        0..=0xff => vec![b'K', number as u8],
        0x100..=0xffff => [b"M", &(number as u16).to_le_bytes()[..]].concat(),
        _ => match i32::try_from(number) {
            Ok(number) => [b"J", &number.to_le_bytes()[..]].concat(),
            Err(_) => [b"\x8a\x08", &number.to_le_bytes()[..]].concat(),
        },
    }
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

/// An entry of a dictionary: a name and a tensor.
pub(crate) fn entry(name: &str, tensor: &Tensor) -> Vec<u8> {
    let sizes = |sizes: &[i64]| tuple(&sizes.iter().map(|size| number(*size)).collect::<Vec<_>>());
    let elements = tensor.shape.iter().fold(1i64, |product, size| product.wrapping_mul(*size));
    let class = format!("ctorch\n{}\n", tensor.class).into_bytes();
    let storage = [text("storage"), class, text(tensor.key), text("cpu"), number(elements)];
    let arguments = [
        [tuple(&storage), b"Q".to_vec()].concat(),
        number(tensor.offset),
        sizes(&tensor.shape),
        sizes(&tensor.strides),
        vec![0x89],
        b"h\x00)R".to_vec(),
    ];
    [text(name), b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(), tuple(&arguments), b"R".to_vec()].concat()
}

/// The archive of a pickle and its storages.
pub(crate) fn archive(pickle: &[u8], storages: &[(String, Vec<u8>)]) -> Pickled {
    let keys = storages.iter().map(|(key, bytes)| (format!("pytorch_model/data/{key}"), &bytes[..]));
    let first = ("pytorch_model/data.pkl".to_owned(), pickle);
    let (bytes, places, directory) = zip(std::iter::once(first).chain(keys));
    Pickled { bytes, pickle: places[0].clone(), directory, storages: storages.to_vec() }
}

/// A zip file of these entries, without checksums. Returns the ranges of the entries and of the directory too.
pub(crate) fn zip<'a>(entries: impl Iterator<Item = (String, &'a [u8])>) -> (Vec<u8>, Vec<Range<usize>>, Range<usize>) {
    let (mut file, mut directory, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let start = file.len() as u32;
        // Version, flags, method, time, date, checksum, both sizes, length of the name, of the extra field.
        let mut common = vec![0; 12];
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        // Torch aligns data to 64 bytes with the extra field.
        let padding = (64 - (file.len() + 34 + name.len()) % 64) % 64;
        file.extend(b"PK\x03\x04\0\0");
        file.extend(&common);
        file.extend((padding as u16 + 4).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(b"FB");
        file.extend((padding as u16).to_le_bytes());
        file.extend(vec![b'Z'; padding]);
        places.push(file.len()..file.len() + bytes.len());
        file.extend(bytes);
        directory.extend(b"PK\x01\x02\0\0\0\0");
        directory.extend(&common);
        // Extra field, comment, disk, attributes.
        directory.extend([0; 12]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let at = file.len()..file.len() + directory.len();
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([(places.len() as u16).to_le_bytes(); 2].concat());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend((at.start as u32).to_le_bytes());
    file.extend([0; 2]);
    (file, places, at)
}
