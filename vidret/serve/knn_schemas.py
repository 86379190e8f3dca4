"""Request and response bodies in the format of clip-retrieval."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from vidret.serve.fields import check_excluded_terms
from vidret.types import MAX_QUERY_LENGTH


class KnnRequest(BaseModel):
    """A request of clip-retrieval's ClipClient; parameters of models that are not provided are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "a dog", "modality": "image", "num_images": 10, "indice_name": "index"}]
        }
    )

    text: Annotated[str, AfterValidator(check_excluded_terms)] | None = Field(None, max_length=MAX_QUERY_LENGTH)
    image: str | None = Field(None, description="Base64.")
    image_url: str | None = Field(None, description="Refused: URLs are not fetched.")
    embedding_input: list[float] | None = Field(None, max_length=8192, description="Vector of the index's encoder.")
    modality: Literal["image", "text"] = "image"
    num_images: int = Field(40, ge=1, le=1000, description="Number of results with a URL and a caption.")
    num_result_ids: int | None = Field(None, ge=1, le=1000, description="Number of results; default: num_images.")
    indice_name: str | None = None


class KnnRow(BaseModel):
    """A result in the format of clip-retrieval."""

    id: int = Field(examples=[7])
    similarity: float = Field(examples=[0.31])
    url: Annotated[str | None, Field(examples=["http://127.0.0.1:8000/api/videos/7/stream#t=30.5"])] = None
    caption: Annotated[str | None, Field(examples=["beach"])] = None
