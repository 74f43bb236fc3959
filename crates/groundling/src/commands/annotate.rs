//! `groundling annotate`: pictures here and now.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use engine::{Engine, Request};
use futures::{StreamExt, stream};
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::generation::{GenerationOptions, GroundedText, Sampling};
use kosmos2::processor::image::{DecodeOptions, Picture, decode};
use kosmos2::processor::prompt::Prompt;

use crate::args::{AnnotateArgs, GenerationArgs};
use crate::report::{self, Result as Report};
use crate::settings::Settings;
use crate::sources::{Reader, Source};
use crate::{Misuse, Outcome, model_dir};

mod asked;

/// Pictures read and decoded ahead of the device: one waits while one is worked on and one is read.
const AHEAD: usize = 3;

pub(crate) async fn run(args: AnnotateArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let prompts = asked::prompts(&args).map_err(Misuse)?;
    let options = generation_options(&args.generation)?;
    let prompts: Vec<_> = prompts.into_iter().map(|prompt| (prompt, options.clone())).collect();
    let mut sources = Vec::new();
    for argument in &args.images {
        sources.extend(Source::from_argument(argument)?);
    }
    let settings = Settings::load(settings)?.with_model(&args.model);
    let dir = model_dir::require(settings.model.path.as_ref())?;
    let model_name = ModelIdentity::name_of(dir)?;
    let engine = super::start_engine(model_dir::open(&settings.model)?)?;
    check_prompts(&engine, &prompts)?;
    let reader = Reader::new(&settings.s3, args.max_bytes).await?;
    let mut drawings = args.draw.as_deref().map(Drawings::new).transpose()?;

    let decoding = DecodeOptions { apply_orientation: !args.no_exif_orientation, ..DecodeOptions::default() };
    let work = |source: Source| annotate(&engine, &reader, source, &decoding, &prompts);
    let mut results = stream::iter(sources).map(work).buffered(AHEAD);
    let mut outcome = Outcome::Done;
    while let Some((source, result)) = results.next().await {
        let name = source.name();
        let (picture, answers) = match result {
            Ok(result) => result,
            Err(error) => {
                eprintln!("groundling: {name}: {error:#}");
                outcome = Outcome::PartlyFailed;
                continue;
            }
        };
        for (index, answer) in answers.iter().enumerate() {
            Report::new(&name, &model_name, answer, !args.no_cleanup).print(args.format)?;
            if let Some(drawings) = &mut drawings {
                drawings.write(&source, (answers.len() > 1).then_some(index), &picture, answer)?;
            }
        }
    }
    Ok(outcome)
}

type Annotated = (Picture, Vec<GroundedText>);

async fn annotate(
    engine: &Engine,
    reader: &Reader,
    source: Source,
    decoding: &DecodeOptions,
    prompts: &[(Prompt, GenerationOptions)],
) -> (Source, anyhow::Result<Annotated>) {
    let result = async {
        let bytes = reader.read(&source).await?;
        let (decoding, images) = (decoding.clone(), engine.clone());
        let prepare = move || {
            let picture = decode(&bytes, &decoding)?;
            let pixels = images.model().images().pixel_values(&picture);
            anyhow::Ok((picture, pixels))
        };
        let (picture, pixels) = tokio::task::spawn_blocking(prepare).await.context("the picture's decoder broke")??;
        let response = engine.submit(Request { pixels, prompts: prompts.to_vec() }).await?;
        Ok((picture, response.texts))
    };
    let result = result.await;
    (source, result)
}

/// A prompt that is not valid is wrong for every picture: said once, before any work.
fn check_prompts(engine: &Engine, prompts: &[(Prompt, GenerationOptions)]) -> anyhow::Result<()> {
    for (prompt, _) in prompts {
        engine.model().encode(prompt).map_err(|error| Misuse(error.into()))?;
    }
    Ok(())
}

fn generation_options(args: &GenerationArgs) -> anyhow::Result<GenerationOptions> {
    let random = args.temperature.is_some() || args.top_k.is_some() || args.top_p.is_some();
    let options = GenerationOptions {
        max_new_tokens: args.max_new_tokens,
        no_repeat_ngram_size: args.no_repeat_ngram_size,
        repetition_penalty: args.repetition_penalty,
        sampling: match random {
            false => Sampling::Greedy,
            true => Sampling::Random {
                temperature: args.temperature.unwrap_or(1.0),
                top_k: args.top_k,
                top_p: args.top_p.unwrap_or(1.0),
                seed: args.seed,
            },
        },
    };
    options.check().map_err(|error| Misuse(anyhow!("--{}", error.to_string().replacen('_', "-", 3))))?;
    Ok(options)
}

/// Pictures with boxes, one file for each picture × prompt.
struct Drawings {
    dir: PathBuf,
    /// How often a name was used: pictures of different folders can share one.
    used: HashMap<String, usize>,
}

impl Drawings {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot be created", dir.display()))?;
        Ok(Self { dir: dir.into(), used: HashMap::new() })
    }

    fn write(
        &mut self,
        source: &Source,
        prompt: Option<usize>,
        picture: &Picture,
        answer: &GroundedText,
    ) -> anyhow::Result<()> {
        let stem = prompt.map_or_else(|| source.stem(), |index| format!("{}-{}", source.stem(), index + 1));
        let times = self.used.entry(stem.clone()).or_default();
        *times += 1;
        let name = if *times == 1 { format!("{stem}.png") } else { format!("{stem}~{times}.png") };
        let path = self.dir.join(name);
        let drawn = archive::review::draw(&picture.rgb, &report::labelled(answer));
        drawn.save(&path).with_context(|| format!("{}: cannot be written", path.display()))
    }
}
