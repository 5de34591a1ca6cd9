//! What a model must do before the node is ready with it.

use shoal_kernels::{ModelDescription, ModelTask};
use shoal_mesh::{ClientError, Encode, Extract, ItemResult, Score};
use shoal_protocol::message::Truncate;

use super::{Node, StartError};

/// What a preloaded model must answer alone and in company, with the same bits.
const SELF_TEST: [&str; 2] = ["the quick brown fox", "a node tests itself before it says that it is ready"];

impl Node {
    /// A model must give the same bits alone and in company, and its vectors must be numbers.
    pub(super) async fn self_test(&self, name: &str) -> Result<(), StartError> {
        let failed = |message: String| StartError::SelfTest { name: name.to_owned(), message };
        let front = self.service.fronts.make(name).await.map_err(|error| failed(error.to_string()))?;
        let alone = self.answers(name, &front.description, &SELF_TEST[..1]).await?;
        let together = self.answers(name, &front.description, &SELF_TEST).await?;
        if let Some(ItemResult::Failed { message, .. }) =
            together.iter().find(|item| matches!(item, ItemResult::Failed { .. }))
        {
            return Err(failed(message.clone()));
        }
        for vector in together.iter().filter_map(ItemResult::vector) {
            let values = vector.as_f32().ok_or_else(|| failed("it answers no f32".to_owned()))?;
            if values.iter().any(|value| !value.is_finite()) || values.iter().all(|value| *value == 0.0) {
                return Err(failed("its vectors are not numbers".to_owned()));
            }
        }
        if alone[0] != together[0] {
            return Err(failed("a text gets other bits in company than alone".to_owned()));
        }
        Ok(())
    }

    /// What a model makes of some texts by what it is for.
    async fn answers(
        &self,
        name: &str,
        description: &ModelDescription,
        texts: &[&str],
    ) -> Result<Vec<ItemResult>, StartError> {
        let (texts, cut) = (texts.iter().copied(), Truncate::Right);
        let answered = match description.task() {
            ModelTask::Encode => {
                self.client.encode(Encode::new(name, texts).truncate(cut).no_deadline()).await
            }
            ModelTask::Score => {
                let call = Score::new(name, SELF_TEST[0], texts).raw(true).truncate(cut).no_deadline();
                self.client.score(call).await.map(|scored| scored.call)
            }
            ModelTask::Extract => {
                // Where a model knows no labels by itself, every span of this one is compared.
                let label = description.span_texts.is_some().then_some("thing");
                let call = Extract::new(name, texts).labels(label).threshold(label.map(|_| 0.0));
                self.client.extract(call.truncate(cut).no_deadline()).await
            }
        };
        let failed =
            |error: ClientError| StartError::Preload { name: name.to_owned(), message: error.to_string() };
        answered.map(|answered| answered.items).map_err(failed)
    }
}
