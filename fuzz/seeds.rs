//! Writes the initial corpus of every target: `cargo run --manifest-path fuzz/Cargo.toml --bin seeds`.
//!
//! It consists of small inputs and is the same in every run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use wire::v1::{self, image_job, task};

/// Maximum size of a picture in bytes. Larger files slow the fuzzer down without covering more code.
const MAX_PICTURE_BYTES: usize = 2_600;

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures = root.join("../tests/fixtures");
    pictures(&folder(root, "picture_decoding")?, &fixtures)?;
    jobs(&folder(root, "job_decoding")?)?;
    texts(&folder(root, "post_processing")?, &folder(root, "prompt_building")?)?;
    events(&folder(root, "event_decoding")?, &fixtures.join("events"))?;
    configs(&folder(root, "config_parsing")?, &fixtures)
}

fn folder(root: &Path, target: &str) -> io::Result<PathBuf> {
    let folder = root.join("seeds").join(target);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    fs::write(folder.join(name.replace([' ', '/'], "-")), bytes)
}

/// The messages of the tests, for the format that recognizes them: its first byte is 0. Those of SeaweedFS are lines.
fn events(folder: &Path, fixtures: &Path) -> io::Result<()> {
    let mut files = fs::read_dir(fixtures)?.collect::<io::Result<Vec<_>>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    for file in files {
        let (name, text) = (file.file_name().to_string_lossy().into_owned(), fs::read_to_string(file.path())?);
        let messages: Vec<&str> = if name.ends_with(".jsonl") { text.lines().collect() } else { vec![&text] };
        for (number, message) in messages.into_iter().enumerate() {
            write(folder, &format!("{name}-{number}"), [b"\0", message.as_bytes()].concat())?;
        }
    }
    let headers_and_s3 = b"\x80{\"Records\":[{\"eventName\":\"ObjectCreated:Put\",\"s3\":{\"bucket\":{\"name\":\"b\"},\"object\":{\"key\":\"p+%23.jpg\",\"size\":\"7\"}}}]}";
    write(folder, "headers", headers_and_s3)
}

fn pictures(folder: &Path, fixtures: &Path) -> io::Result<()> {
    for picture in hostile::pictures::refused().iter().filter(|picture| picture.bytes.len() <= MAX_PICTURE_BYTES) {
        // The fuzzer truncates inputs itself.
        if !picture.name.contains(" cut to ") {
            write(folder, &picture.name, &picture.bytes)?;
        }
    }
    for (name, bytes) in hostile::pictures::costly().iter().filter(|(_, bytes)| bytes.len() <= MAX_PICTURE_BYTES) {
        write(folder, name, bytes)?;
    }
    for name in [
        "odd_size_420.jpg",
        "progressive.jpg",
        "one_pixel.png",
        "bilevel.png",
        "bilevel.bmp",
        "alpha_lossy.webp",
        "interlaced.gif",
        "gray_key.png",
        "kinds/dump_packed.png",
        "kinds/exif_over_xmp.png",
        "kinds/frame_smaller.png",
        "kinds/interlaced_partial.gif",
        "kinds/own_palette_only.gif",
        "kinds/masks_rgba_v5.bmp",
        "kinds/os2_4.bmp",
        "kinds/runs_4.bmp",
        "kinds/runs_8.bmp",
        "kinds/exif_two_longs_be.jpg",
        "kinds/ycck.jpg",
        "kinds/xmp_element.webp",
        "kinds/lossy_animated_disposed.webp",
        "kinds/lossless_alpha_not_announced.webp",
        "tiff/pillow_group4.tif",
        "tiff/pillow_tiff_ccitt.tif",
        "tiff/tiffcp_group3_2d_fill.tif",
        "tiff/tiffcp_jpeg_strips.tif",
        "tiff/big_lzw.tif",
        "tiff/bits4_3_5_le.tif",
        "tiff/float_8_be.tif",
        "tiff/ycbcr_22_5_29.tif",
        "tiff/xmp_orientation.tif",
        "avif/pillow_420.avif",
        "avif/pillow_444_multiplied.avif",
        "avif/pillow_frames_alpha.avif",
        "avif/avifenc_422_10_alpha.avif",
        "avif/avifenc_identity.avif",
        "avif/avifenc_turned_and_mirrored.avif",
    ] {
        write(folder, name, fs::read(fixtures.join("images").join(name))?)?;
    }
    Ok(())
}

fn jobs(folder: &Path) -> io::Result<()> {
    let named = |task_id: &str, kind| v1::Task { task_id: task_id.into(), kind: Some(kind) };
    let text = |text: &str| text.to_owned();
    let prompt_box = v1::PromptBox::default();
    let kinds = [
        ("brief", task::Kind::BriefCaption(v1::BriefCaption {})),
        ("detailed", task::Kind::DetailedCaption(v1::DetailedCaption {})),
        ("question", task::Kind::Question(v1::Question { question: text("What is it?") })),
        (
            "raw",
            task::Kind::Raw(v1::RawPrompt {
                text: text("<grounding><phrase> a</phrase>"),
                phrase_boxes: vec![v1::PhraseBoxes { boxes: vec![prompt_box] }],
            }),
        ),
    ];
    let s3 =
        v1::S3Object { bucket: text("imgs"), key: text("a/b.jpg"), etag: Some(text("0123")), ..Default::default() };
    let all = kinds.iter().map(|(name, kind)| named(name, kind.clone())).collect::<Vec<_>>();
    for (name, source, tasks) in [
        ("inline", image_job::Source::Inline(vec![1, 2, 3].into()), all[..1].to_vec()),
        ("s3", image_job::Source::S3(s3.clone()), all.clone()),
        ("twice", image_job::Source::S3(s3), [&all[..], &all[..]].concat()),
    ] {
        let job = v1::ImageJob {
            job_id: name.into(),
            dataset: text("cats"),
            source: Some(source),
            tasks,
            options: Some(v1::GenerationOptions::default()),
            labels: [(text("k"), text("v"))].into(),
        };
        write(folder, name, job.encode_to_vec())?;
    }
    write(folder, "empty", b"")?;
    write(folder, "garbage", b"\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01")
}

fn texts(raw: &Path, prompts: &Path) -> io::Result<()> {
    // A patch index too large for any number type, which once resulted in an infinite box.
    let huge_index = format!("<phrase>a</phrase><object><patch_index_0000><patch_index_{}></object>", "9".repeat(320));
    let texts = [
        &*huge_index,
        "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> warming himself.",
        "<phrase> a</phrase><object><patch_index_0000><patch_index_1023></delimiter_of_multi_objects/><patch_index_0001><patch_index_0002></object>",
        "<phrase> a<phrase> b</phrase></object><object><patch_index_9999><patch_index_0000></object>",
        "</image> Question: <grounding>? Answer:",
        "ä<phrase> 雪だるま</phrase><object><patch_index_0001></object>\n\u{2581} .",
        "",
    ];
    for (number, text) in texts.iter().enumerate() {
        write(raw, &format!("text {number}"), text)?;
        // In the layout that `arbitrary` reads: the variant, then the text.
        write(prompts, &format!("raw {number}"), [&[0, 0, 0, 0xc0], text.as_bytes(), &[0; 8]].concat())?;
        write(prompts, &format!("words {number}"), [&[0, 0, 0, 0x10], text.as_bytes(), &[1; 8]].concat())?;
    }
    Ok(())
}

fn configs(folder: &Path, fixtures: &Path) -> io::Result<()> {
    let model = fixtures.join("text/kosmos-2-patch14-224");
    for (which, name) in [(0, "config.json"), (1, "preprocessor_config.json"), (2, "generation_config.json")] {
        write(folder, name, [&[which], &fs::read(model.join(name))?[..]].concat())?;
    }
    let header = br#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
    let stored = [&[3], &(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    write(folder, "model.safetensors", stored)?;
    write(
        folder,
        "index.json",
        [&[4], &br#"{"weight_map": {"a.weight": "model-00001-of-00002.safetensors"}}"#[..]].concat(),
    )?;
    let settings = "[nats]\nurl = \"tls://a:4222\"\nuser = \"u\"\npassword = \"p\"\n[s3]\nallow = [\"imgs/a\"]\n\
        connect_timeout = \"1m 30s\"\n[worker]\nslots = 8\nmax_decode_bytes = 2147483648\njob_timeout = \"15m\"\n";
    write(folder, "groundling.toml", [&[5], settings.as_bytes()].concat())
}
