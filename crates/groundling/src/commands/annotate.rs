//! `groundling annotate`: pictures here and now.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use anyhow::{Context, anyhow};
use engine::{Engine, EngineOptions, Request, USUAL_SLOTS};
use futures::{StreamExt, stream};
use kosmos2::checkpoint::ModelIdentity;
use kosmos2::generation::{BeamOptions, EarlyStopping, GenerationOptions, GroundedText, Sampling};
use kosmos2::processor::image::{DecodeOptions, ImageProcessor, Picture, PixelValues, decode};
use kosmos2::{Ask, Processor};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::args::{self, AnnotateArgs, GenerationArgs};
use crate::report::{self, Result as Report};
use crate::settings::Settings;
use crate::sources::{Reader, Source};
use crate::{Misuse, Outcome, model_dir, stderr};

mod asked;

/// Pictures being read and decoded beside those that the device has room for.
const READ_AHEAD: usize = 4;

/// Pictures being read and decoded while the model is opened: as many as would be in hand afterwards on a CPU.
const EARLY: usize = USUAL_SLOTS + READ_AHEAD;

pub(crate) async fn run(args: AnnotateArgs, settings: Option<&Path>) -> anyhow::Result<Outcome> {
    let prompts = asked::prompts(&args).map_err(Misuse)?;
    let options = generation_options(&args.generation)?;
    let asks: Vec<_> = prompts.into_iter().map(|prompt| Ask::generate(prompt, options.clone())).collect();
    let mut sources = Vec::new();
    for argument in &args.images {
        sources.extend(Source::from_argument(argument)?);
    }
    let settings = Settings::load(settings)?.with_model(&args.model);
    let dir = model_dir::require(settings.model.path.as_ref())?;
    let model_name = ModelIdentity::name_of(dir)?;
    let decoding = DecodeOptions { apply_orientation: !args.no_exif_orientation, ..DecodeOptions::default() };
    let preparer = Arc::new(Preparer {
        reader: Reader::new(&settings.s3, args.max_bytes),
        decoding,
        images: model_dir::images(dir)?,
        keep_pictures: args.draw.is_some(),
        turns: Semaphore::new(available_parallelism().map_or(1, usize::from)),
    });
    // Opening a model leaves most processors idle.
    let early: Vec<_> = sources.iter().take(EARLY).map(|source| preparer.start(source.clone())).collect();
    let model = model_dir::open(&settings.model)?;
    let mut room = settings.engine.options();
    make_room(&mut room, model.processor(), &asks)?;
    let engine = super::start_engine(model, room)?;
    let mut drawings = args.draw.as_deref().map(Drawings::new).transpose()?;

    let early = early.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let work = |(source, prepared): (Source, Option<_>)| {
        let prepared = prepared.unwrap_or_else(|| preparer.start(source.clone()));
        annotate(&engine, source, prepared, &asks)
    };
    let at_once = engine.room().slots.div_ceil(asks.len()) + READ_AHEAD;
    let mut results = stream::iter(sources.into_iter().zip(early)).map(work).buffered(at_once);
    let mut outcome = Outcome::Done;
    while let Some((source, result)) = results.next().await {
        let name = source.name();
        let (picture, answers) = match result {
            Ok(result) => result,
            Err(error) => {
                stderr::message!("groundling: {name}: {error:#}");
                outcome = Outcome::PartlyFailed;
                continue;
            }
        };
        for (index, answer) in answers.iter().enumerate() {
            Report::new(&name, &model_name, answer, !args.no_cleanup).print(args.format)?;
            if let (Some(drawings), Some(picture)) = (&mut drawings, &picture) {
                drawings.write(&source, (answers.len() > 1).then_some(index), picture, answer)?;
            }
        }
    }
    Ok(outcome)
}

/// The picture where it is wanted, and the answers.
type Annotated = (Option<Picture>, Vec<GroundedText>);

/// The picture where it is wanted, and what the model takes.
type Prepared = (Option<Picture>, PixelValues);

async fn annotate(
    engine: &Engine,
    source: Source,
    prepared: JoinHandle<anyhow::Result<Prepared>>,
    asks: &[Ask],
) -> (Source, anyhow::Result<Annotated>) {
    let result = async {
        let (picture, pixels) = prepared.await.context("the picture's decoder broke")??;
        let response = engine.submit(Request { pixels, asks: asks.to_vec(), deadline: None }).await?;
        Ok((picture, response.texts))
    };
    let result = result.await;
    (source, result)
}

/// What makes sources pictures.
struct Preparer {
    reader: Reader,
    decoding: DecodeOptions,
    images: ImageProcessor,
    /// Whether pictures are wanted behind their pixel values. What is not kept is room for the next one.
    keep_pictures: bool,
    /// To decode. More pictures at once than processors would all be late, and each hold memory meanwhile.
    turns: Semaphore,
}

impl Preparer {
    /// Begins to read and decode a picture.
    fn start(self: &Arc<Self>, source: Source) -> JoinHandle<anyhow::Result<Prepared>> {
        let own = Arc::clone(self);
        tokio::spawn(async move {
            // Files are read by whoever decodes them: more threads would each keep memory for pictures.
            let is_file = matches!(source, Source::File(_));
            let fetched = if is_file { None } else { Some(own.reader.read(&source).await?) };
            let _turn = own.turns.acquire().await?;
            let bytes = match fetched {
                Some(bytes) => bytes,
                None => own.reader.read(&source).await?,
            };
            let images = Arc::clone(&own);
            let prepare = move || {
                let picture = decode(&bytes, &images.decoding)?;
                let pixels = images.images.pixel_values(&picture);
                anyhow::Ok((images.keep_pictures.then_some(picture), pixels))
            };
            tokio::task::spawn_blocking(prepare).await.context("the picture's decoder broke")?
        })
    }
}

/// Makes the engine's room large enough for every ask. One that is not valid is wrong for every picture: said once,
/// before any work.
fn make_room(room: &mut EngineOptions, processor: &Processor, asks: &[Ask]) -> anyhow::Result<()> {
    for ask in asks {
        let prepared = processor.prepare(ask).map_err(|error| Misuse(error.into()))?;
        let decoding = processor.decoding(&prepared).map_err(|error| Misuse(error.into()))?;
        room.slot_tokens = room.slot_tokens.max(decoding.longest());
        if decoding.slots() > room.slots.unwrap_or(USUAL_SLOTS) {
            room.slots = Some(decoding.slots());
        }
    }
    Ok(())
}

fn generation_options(args: &GenerationArgs) -> anyhow::Result<GenerationOptions> {
    let options = GenerationOptions {
        max_new_tokens: args.max_new_tokens,
        no_repeat_ngram_size: args.no_repeat_ngram_size,
        repetition_penalty: args.repetition_penalty,
        sampling: sampling(args),
        well_formed: args.well_formed,
    };
    options.check().map_err(|error| Misuse(anyhow!("--{}", error.to_string().replacen('_', "-", 3))))?;
    Ok(options)
}

fn sampling(args: &GenerationArgs) -> Sampling {
    if let Some(num_beams) = args.num_beams {
        let early_stopping = match args.early_stopping {
            args::EarlyStopping::Yes => EarlyStopping::Yes,
            args::EarlyStopping::No => EarlyStopping::No,
            args::EarlyStopping::Never => EarlyStopping::Never,
        };
        return Sampling::Beam(BeamOptions { num_beams, length_penalty: args.length_penalty, early_stopping });
    }
    if args.temperature.is_none() && args.top_k.is_none() && args.top_p.is_none() {
        return Sampling::Greedy;
    }
    Sampling::Random {
        temperature: args.temperature.unwrap_or(1.0),
        top_k: args.top_k,
        top_p: args.top_p.unwrap_or(1.0),
        seed: args.seed,
    }
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
