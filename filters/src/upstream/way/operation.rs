//! Where the operations beside generation go.

use http::uri::PathAndQuery;

use super::{
    AZURE_VERSION, INFERENCE_VERSION, NoWay, Upstream, WATSONX_VERSION, is_versioned, segment,
};
use crate::operations::Kind;
use crate::providers::Family;

impl Upstream {
    /// The path of an operation, in the provider's own API.
    ///
    /// # Errors
    /// When the model's name or a setting cannot stand in it.
    pub(crate) fn operation_path(
        &self,
        kind: Kind,
        model: &str,
        include_raw: bool,
    ) -> Result<PathAndQuery, NoWay> {
        let base = &*self.base_path;
        let tail = kind.route().strip_prefix("/v1").unwrap_or_default();
        let made = match self.kind.family {
            Family::Gemini => self.gemini(model, "batchEmbedContents")?,
            Family::Vertex => self.vertex(model, "predict")?,
            Family::Bedrock => format!("{base}/model/{}/invoke", segment(model)?),
            Family::SageMaker => format!("{base}/endpoints/{}/invocations", segment(model)?),
            Family::Cohere => {
                let call = if kind == Kind::Rerank { "rerank" } else { "embed" };
                let base = base.strip_suffix("/v1").unwrap_or(base);
                let version = if is_versioned(base, &["v2"]) { "" } else { "/v2" };
                format!("{base}{version}/{call}")
            }
            Family::Ollama => {
                let base = base.strip_suffix("/v1").unwrap_or(base);
                format!("{base}{}/embed", if base.ends_with("/api") { "" } else { "/api" })
            }
            // The newer API has no deployments and no versions.
            Family::AzureOpenAi if !base.ends_with("/openai/v1") => {
                let version = self.version(AZURE_VERSION)?;
                let base = base.strip_suffix("/openai").unwrap_or(base);
                format!("{base}/openai/deployments/{}{tail}?api-version={version}", segment(model)?)
            }
            Family::AzureInference => {
                format!("{base}{tail}?api-version={}", self.version(INFERENCE_VERSION)?)
            }
            Family::Watsonx => {
                let version = self.version(WATSONX_VERSION)?;
                format!("{base}/ml/v1/text/embeddings?version={version}")
            }
            _ if include_raw && self.kind.name == "otari" => {
                format!("{base}{tail}?include_raw=true")
            }
            _ => format!("{base}{tail}"),
        };
        made.parse().map_err(|_| NoWay::Model)
    }
}
