//! Compiles `proto/`, without protoc.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 6] = [
    "groundling/v1/job.proto",
    ANNOTATIONS,
    FAILURES,
    "groundling/v1/outcome.proto",
    "groundling/v1/attempt.proto",
    "groundling/v1/retry.proto",
];
const ANNOTATIONS: &str = "groundling/v1/annotation.proto";
const FAILURES: &str = "groundling/v1/failure.proto";

/// The message of another file that annotations contain.
const FRACTION_BOX: &str = "FractionBox";

fn main() -> Result<(), Box<dyn Error>> {
    // Read at run time, because a cached build script may come from another checkout.
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    for file in FILES {
        println!("cargo::rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(FILES, [&root])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    // Annotations and failures have the JSON that src/json.rs describes.
    for file in &descriptors.file {
        let is_whole = [ANNOTATIONS, FAILURES].contains(&file.name());
        for message in file.message_type.iter().filter(|message| is_whole || message.name() == FRACTION_BOX) {
            let path = format!(".{}.{}", file.package(), message.name());
            config.type_attribute(&path, "#[derive(::serde::Serialize, ::serde::Deserialize)] #[serde(default)]");
            for field in &message.field {
                let is_repeated = field.label() as i32 == LABEL_REPEATED;
                let is_message = field.r#type() as i32 == TYPE_MESSAGE;
                let has_presence = field.proto3_optional() || (is_message && !is_repeated);
                let mut attributes = Vec::new();
                if let Some(module) = module(field.type_name(), field.r#type() as i32) {
                    attributes.push(format!("with = \"crate::json::{module}\""));
                }
                if has_presence {
                    attributes.push("skip_serializing_if = \"Option::is_none\"".to_owned());
                } else if file.name() == FAILURES {
                    attributes.push("skip_serializing_if = \"crate::json::is_default\"".to_owned());
                }
                if !attributes.is_empty() {
                    config.field_attribute(
                        format!("{path}.{}", field.name()),
                        format!("#[serde({})]", attributes.join(", ")),
                    );
                }
            }
        }
    }
    config.compile_fds(descriptors)?;
    Ok(())
}

// Numbers of google.protobuf.FieldDescriptorProto.
const LABEL_REPEATED: i32 = 3;
const TYPE_DOUBLE: i32 = 1;
const TYPE_FLOAT: i32 = 2;
const TYPE_MESSAGE: i32 = 11;
const TYPE_BYTES: i32 = 12;

/// The module of src/json.rs for the values of a type whose JSON is not that of serde.
fn module(type_name: &str, kind: i32) -> Option<&'static str> {
    match type_name {
        ".google.protobuf.Duration" => Some("duration"),
        ".google.protobuf.Timestamp" => Some("timestamp"),
        ".groundling.v1.FinishReason" => Some("finish_reason"),
        ".groundling.v1.FailureReason" => Some("failure_reason"),
        name if name.ends_with(".LabelsEntry") => Some("sorted"),
        _ if kind == TYPE_BYTES => Some("base64"),
        _ if [TYPE_DOUBLE, TYPE_FLOAT].contains(&kind) => Some("float"),
        _ => None,
    }
}
