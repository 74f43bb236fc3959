//! Stored messages: their bytes and the ids of their annotations and failures never change.
//!
//! The bytes were encoded by another implementation of protobuf, and the ids computed in Python from the encoding that
//! `wire::identity` documents.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use wire::Message;
use wire::identity::{PictureOrigin, annotation_id, failure_id, resubmission_id, sha256_hex};
use wire::job::{CheckedJob, job_id_from_bytes, object_from_bytes};
use wire::v1::{ImageAnnotation, ImageJob, JobFailure, ObjectIdentity};

const PLAIN_JOB: &str = "\
    0a056a6f622d311204636174731a0f0a04696d67731207612f622e6a70672a090a05627269656612002a0e0a03636174\
    2a070a056120636174";
const FULL_JOB: &str = "\
    0a096772c3b6c39f6523371206e697a5e69cac1a2f0a0c617263686976652e323032341213323032342f626561636820\
    e298832e776562701a02763122062230313233222a0c0a0864657461696c65641a002a240a087175657374696f6e2218\
    0a1657686174206973207468652063617420646f696e673f2a240a0466696e64321c0a1a74686520636174206e657874\
    20746f207468652077696e646f772a3b0a0864657363726962653a2f0a050a0310ff070a261224099a9999999999b93f\
    119a9999999999c93f19000000000000e03f21cdccccccccccec3f2a4f0a0372617742480a3c3c67726f756e64696e67\
    3e3c7068726173653e61206361743c2f7068726173653e20616e64203c7068726173653e6120646f673c2f7068726173\
    653e12060a040a02102112002a4e0a0573636f72654a450a173c67726f756e64696e673e20416e20696d616765206f66\
    12280a173c7068726173653e2061206361743c2f7068726173653e120d0a0b120919000000000000f03f180132160840\
    30033d0000a03f40004a09080415000000bf18033a0b0a0663616d657261120137";
const INLINE_JOB: &str = "\
    0a06696e6c696e65120161220889504e470d0a1a0a2a050a017412003217150000003f1803256666663f288080808080\
    8080808001";
const ANNOTATION: &str = "\
    0a4061623532646566303437616161633831363363313964366232353236373739303438383462613239363930303564\
    35383163373464383066316533313438353612056a6f622d311a0463617473220b0a0663616d6572611201372a380a04\
    7765627010800218c00120a4572a0830353534366634333006380142190a04696d67731207612f622e6a70671a043031\
    323322027631321a0a0e6b6f736d6f732d322d656d6f6a6912046d61696e1a0264313a98020a05627269656612173c67\
    726f756e64696e673e20416e20696d616765206f661a12416e20696d616765206f66206120666f782e222e3c67726f75\
    6e64696e673e20416e20696d616765206f663c7068726173653e206120666f783c2f7068726173653e2a91010a056120\
    666f781204080110221a04080c101122770a2409000000000000c63f11000000000000d33f19000000000000dd3f2100\
    0000000080e23f1224090000000000004640110000000000804c40190000000000005d40210000000000c05b401d0000\
    803e222409c3f5285c8fc2c53f11333333333333d33f19cdccccccccccdc3f218fc2f5285c8fe23f2d0000003f300238\
    4740034a050587f40302520c000000bf000080be0000c0bf5d0000403f42360a0310e8071205080110d00f1a05080210\
    b8172205080310a01f2a0508041088273205080510f02e3a05080610d8364205080710c03e4a0e0a05706f642d311205\
    302e312e3052080880e2cfaa061005";
const FAILURE: &str = "\
    0a390a056a6f622d311204636174731a0f0a04696d67731207612f622e6a70672a090a05627269656612002a0e0a0363\
    61742a070a056120636174121467726f756e646c696e672e6a6f62732e636174731a056a6f622d3120032a2073333a2f\
    2f696d67732f612f622e6a706720646f6573206e6f7420657869737430013807420e0a05706f642d311205302e312e30\
    4a080880e2cfaa0610055240326265376163303032383462316561333836313732333930306262643237623335323436\
    396337386361323464623965393638346137623631623865653333396204696d67736a07612f622e6a706772027631";
const FAILURE_WITHOUT_JOB: &str =
    "121467726f756e646c696e672e6a6f62732e6361747320012a0a756e7265616461626c65300338085204313461635801";

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).unwrap()
}

/// Decodes a message and checks that it is encoded to the same bytes.
fn decode<M: Message + Default>(hex: &str) -> M {
    let message = M::decode(&bytes(hex)[..]).unwrap();
    assert_eq!(hex::encode(message.encode_to_vec()), hex);
    message
}

fn object(bucket: &str, key: &str, etag: &str, version_id: Option<&str>) -> ObjectIdentity {
    let (etag, version_id) = (Some(etag.into()), version_id.map(str::to_owned));
    ObjectIdentity { bucket: bucket.into(), key: key.into(), etag, version_id }
}

#[test]
fn stored_jobs_are_encoded_to_the_same_bytes_and_have_the_same_annotation_ids() {
    let plain = object("imgs", "a/b.jpg", "0123", None);
    let full = object("archive.2024", "2024/beach ☃.webp", "0123", Some("v1"));
    let inline = "4c4b6a3be1314ab86138bef4314dde022e600960d8689a2c8f8631802d20dab6";
    for (hex, picture, id) in [
        (PLAIN_JOB, PictureOrigin::Object(&plain), "ab52def047aaac8163c19d6b252677904884ba2969005d581c74d80f1e314856"),
        (FULL_JOB, PictureOrigin::Object(&full), "41efa68c39f78a9cb710d9d3dca3d5b26a4eff2c86da283b6317d9109e4d55a1"),
        (
            INLINE_JOB,
            PictureOrigin::Inline { sha256: inline },
            "b85eb51ecdcc7dcfafb1a942bc3c04263ef5ec255bd708e3640705d7b43cb906",
        ),
    ] {
        let job = decode::<ImageJob>(hex);
        assert_eq!(job_id_from_bytes(&bytes(hex)), Some(job.job_id.as_str()));
        let checked = CheckedJob::from_bytes(bytes(hex).into()).unwrap();
        assert_eq!(checked, CheckedJob::new(job).unwrap());
        assert_eq!(annotation_id(&checked, picture, "d1"), id);
    }
    let full = decode::<ImageJob>(FULL_JOB);
    assert_eq!((full.job_id.as_str(), full.dataset.as_str(), full.tasks.len()), ("größe#7", "日本", 6));
    assert_eq!(object_from_bytes(&bytes(FULL_JOB)).unwrap().key, "2024/beach ☃.webp");
}

#[test]
fn a_stored_annotation_is_encoded_to_the_same_bytes() {
    let annotation = decode::<ImageAnnotation>(ANNOTATION);
    assert_eq!(annotation.annotation_id, "ab52def047aaac8163c19d6b252677904884ba2969005d581c74d80f1e314856");
    let result = &annotation.results[0];
    assert_eq!((result.text.as_str(), result.generated_tokens), ("An image of a fox.", 3));
    assert_eq!((result.token_ids.as_slice(), result.loss), (&[5, 64007, 2][..], Some(0.75)));
    assert_eq!(result.entities[0].span.unwrap().start, -1);
    assert_eq!(result.entities[0].boxes[0].pixels.unwrap().y1, 111.0);
    assert_eq!(annotation.timings.unwrap().total.unwrap().seconds, 7);
}

#[test]
fn stored_failures_are_encoded_to_the_same_bytes_and_have_the_same_ids() {
    let failure = decode::<JobFailure>(FAILURE);
    assert_eq!(hex::encode(&failure.job), PLAIN_JOB);
    assert_eq!(failure.job_sha256, sha256_hex(&failure.job));
    let id = failure_id("GROUNDLING_JOBS", failure.stream_sequence, 1_700_000_000_000_000_000, &failure.job_sha256);
    assert_eq!(id, "71c48ecd13eb4992fb246076e99cd3e3338e827dd2d08d1aa082eb4d6317ce48");
    assert_eq!(resubmission_id(&failure), "job-1#7");
    let without_job = decode::<JobFailure>(FAILURE_WITHOUT_JOB);
    assert!(without_job.job_omitted);
    assert_eq!(resubmission_id(&without_job), "14ac#8");
}
