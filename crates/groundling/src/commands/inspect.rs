//! `groundling inspect`: the model's inputs, and the parsing of its raw output.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use kosmos2::config::Config;
use kosmos2::grounding::markup;
use kosmos2::processor::image::{DecodeOptions, ImageProcessor, decode};
use kosmos2::processor::prompt::{EncodeOptions, Prompt, TextProcessor};
use kosmos2::processor::tokenizer::KosmosTokenizer;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::args::{Inspect, InspectImage, InspectPrompt, InspectText};
use crate::exit::{Misuse, Outcome};
use crate::{files, model_supply, stdout};

pub(crate) async fn run(what: Inspect, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    match what {
        Inspect::Prompt(args) => {
            let dir = model_supply::directory_of_flag(args.model.as_ref(), settings).await?;
            inspect_prompt(args, &dir)
        }
        Inspect::Image(args) => {
            let dir = model_supply::directory_of_flag(args.model.as_ref(), settings).await?;
            inspect_image(&args, &dir)
        }
        Inspect::Text(args) => inspect_text(&args),
    }
}

fn inspect_prompt(args: InspectPrompt, dir: &Path) -> anyhow::Result<Outcome> {
    let config = Config::from_dir(dir)?;
    let processor = TextProcessor::new(KosmosTokenizer::from_dir(dir)?, config.latent_query_num);
    let prompt = Prompt::from_json(args.prompt, args.boxes.as_deref()).map_err(|error| Misuse(error.into()))?;
    let options = EncodeOptions { image: !args.no_image, add_eos: args.add_eos, ..EncodeOptions::default() };
    let encoded = processor.encode(&prompt, &options).map_err(|error| Misuse(error.into()))?;
    stdout::write_json(&json!({
        "input_ids": encoded.input_ids,
        "attention_mask": encoded.attention_mask,
        "image_embeds_position_mask": encoded.image_embeds_position_mask,
    }))?;
    Ok(Outcome::Done)
}

fn inspect_image(args: &InspectImage, dir: &Path) -> anyhow::Result<Outcome> {
    let processor = ImageProcessor::from_dir(dir)?;
    let same = args.out.canonicalize().is_ok_and(|out| args.file.canonicalize().is_ok_and(|file| file == out));
    if same {
        return Err(Misuse(anyhow!("--out is the picture itself; choose another file")).into());
    }
    let named = |path: &PathBuf| path.display().to_string();
    let bytes = std::fs::read(&args.file).with_context(|| format!("{}: cannot be read", named(&args.file)))?;
    let options = DecodeOptions { apply_orientation: !args.no_exif_orientation, ..DecodeOptions::default() };
    let picture = decode(&bytes, &options).with_context(|| named(&args.file))?;
    let pixels = processor.pixel_values(&picture);
    let data: Vec<u8> = pixels.as_slice().iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, vec![1, 3, processor.size(), processor.size()], &data)?;
    let file = safetensors::serialize([("pixel_values", tensor)], None)?;
    files::replace(&args.out, |out| Ok(out.write_all(&file)?))?;
    Ok(Outcome::Done)
}

fn inspect_text(args: &InspectText) -> anyhow::Result<Outcome> {
    for line in io::stdin().lock().split(b'\n') {
        let line = String::from_utf8(line?).context("standard input is not UTF-8")?;
        let raw = markup::caption(&line);
        let (text, entities) = if args.raw {
            (raw.to_owned(), Vec::new())
        } else {
            let parsed = markup::parse(raw);
            (parsed.text, parsed.entities)
        };
        let entities: Vec<_> = entities
            .iter()
            .map(|entity| {
                let boxes: Vec<_> = entity.boxes.iter().map(|b| [b.x0, b.y0, b.x1, b.y1]).collect();
                json!([entity.phrase, [entity.span.0, entity.span.1], boxes])
            })
            .collect();
        stdout::write_json(&json!({"text": text, "entities": entities}))?;
    }
    Ok(Outcome::Done)
}
