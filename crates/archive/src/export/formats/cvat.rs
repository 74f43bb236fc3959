//! CVAT for images 1.1: an XML file with the boxes in pixels; scores and phrases are attributes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;

use crate::export::error::ExportError;
use crate::export::item::Item;
use crate::export::shard_writer::{ShardContext, ShardWriter};
use crate::export::staged_file::Finished;
use crate::export::xml::escaped;

pub(super) struct Shard {
    context: ShardContext,
    images: String,
    count: u64,
    labels: BTreeSet<String>,
}

impl Shard {
    pub(super) fn create(context: &ShardContext) -> Result<Self, ExportError> {
        let labels = context.categories.iter().cloned().collect();
        Ok(Self { context: context.clone(), images: String::new(), count: 0, labels })
    }

    /// The part before the images.
    fn head(&self) -> String {
        let attribute = |name: &str| {
            format!(
                "<attribute><name>{name}</name><mutable>True</mutable><input_type>text</input_type><default_value></default_value><values></values></attribute>"
            )
        };
        let attributes = ["score", "phrase", "task"].map(attribute).concat();
        let label = |name: &String| {
            format!("<label><name>{}</name><attributes>{attributes}</attributes></label>\n", escaped(name))
        };
        let labels: String = self.labels.iter().map(label).collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<annotations>\n<version>1.1</version>\n<meta><task><name>{}</name><size>{}</size><mode>annotation</mode><overlap>0</overlap><labels>\n{labels}</labels></task></meta>\n",
            escaped(&self.context.dataset),
            self.count
        )
    }
}

impl ShardWriter for Shard {
    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        let (width, height) = item.size();
        let object = item.annotation.picture.as_ref().and_then(|picture| picture.object.as_ref());
        let name = object.map_or_else(|| item.file_name(), |object| object.key.clone());
        let text = &mut self.images;
        let id = self.count;
        self.count += 1;
        let _ = writeln!(text, "<image id=\"{id}\" name=\"{}\" width=\"{width}\" height=\"{height}\">", escaped(&name));
        for found in item.boxes() {
            let label = &found.category.name;
            if !self.labels.contains(&**label) {
                self.labels.insert(label.to_string());
            }
            let place = found.fractions.scaled(width.into(), height.into());
            let _ = write!(
                text,
                "<box label=\"{}\" occluded=\"0\" source=\"auto\" xtl=\"{}\" ytl=\"{}\" xbr=\"{}\" ybr=\"{}\" z_order=\"0\">",
                escaped(label),
                place.x0,
                place.y0,
                place.x1,
                place.y1
            );
            if let Some(score) = found.score {
                let _ = write!(text, "<attribute name=\"score\">{score}</attribute>");
            }
            let phrase = escaped(&found.entity.phrase);
            let task = escaped(&found.result.task_id);
            let _ = writeln!(
                text,
                "<attribute name=\"phrase\">{phrase}</attribute><attribute name=\"task\">{task}</attribute></box>"
            );
        }
        text.push_str("</image>\n");
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Finished>, ExportError> {
        let mut file = self.context.create("annotations", ".xml")?;
        let (head, end) = (self.head(), "</annotations>\n");
        let parts = [head.as_str(), &self.images, end];
        parts.iter().try_for_each(|part| file.write_all(part.as_bytes())).map_err(|error| file.failed(error))?;
        Ok(vec![file.finish()?])
    }
}
