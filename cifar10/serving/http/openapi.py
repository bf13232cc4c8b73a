"""What the service says about itself in OpenAPI: request bodies, answers and examples of its routes."""

from typing import Any

DESCRIPTION = """Image classification over HTTP.

Send images to `POST /predict`: one encoded image as the body, files in a form, or base64 in JSON. Each image gets its
classes, or the reason why it cannot be read. `/v2/...` are the routes of the Open Inference Protocol.
"""

_BINARY = {"type": "string", "format": "binary"}
_BASE64_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGP8z8DAwMDAxMDAwMDAAAANHQEDasKb6QAAAABJRU5ErkJggg=="
)
_IMAGE_IN_JSON = {
    "anyOf": [
        {"type": "string", "format": "byte", "description": "An encoded image in base64."},
        {
            "type": "object",
            "required": ["data"],
            "properties": {"name": {"type": "string"}, "data": {"type": "string", "format": "byte"}},
        },
    ]
}
_REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {"images": {"type": "array", "minItems": 1, "items": _BINARY}},
            }
        },
        "application/octet-stream": {"schema": _BINARY},
        "image/png": {"schema": _BINARY},
        "image/jpeg": {"schema": _BINARY},
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {"images": {"type": "array", "minItems": 1, "items": _IMAGE_IN_JSON}},
            },
            "example": {"images": [_BASE64_IMAGE]},
        },
    },
}
_CLASS = {"class_name": "cat", "class_id": 3, "probability": 0.981}
_ANSWER = {
    "model": {"name": "first", "version": "7eca0a5601c8"},
    "images": [
        {**_CLASS, "error": None, "top": [_CLASS], "name": "cat.png"},
        {
            "class_name": None,
            "class_id": None,
            "probability": None,
            "error": "not a PNG, JPEG, WebP, AVIF, HEIC, BMP, GIF, TIFF or PPM image",
            "top": [],
            "name": "notes.txt",
        },
    ],
}
_ERROR_SCHEMA = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}


_ERRORS: dict[int | str, dict[str, Any]] = {
    401: _error("An API key is needed."),
    503: _error("No model is loaded yet, or too many requests at once. Retry-After says when to send it again."),
}

PREDICT: dict[str, Any] = {
    "summary": "Classify images",
    "openapi_extra": {"requestBody": _REQUEST_BODY},
    "responses": {
        200: {
            "description": "One entry for each image, in order. At least one could be read.",
            "content": {"application/json": {"schema": {"type": "object"}, "example": _ANSWER}},
        },
        400: _error("The body is not what its content type says."),
        408: _error("The body did not arrive in time."),
        413: _error("The body is too large, or has too many images."),
        415: _error("The content type is not known."),
        422: {
            "description": "No image could be read: the answer has the reasons. Or an argument is not valid.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **_ERRORS,
    },
}
MODEL: dict[str, Any] = {
    "summary": "Describe the model",
    "responses": {
        200: {
            "description": "Names, sizes, origin and limits.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **_ERRORS,
    },
}
PROBE: dict[str, Any] = {
    "responses": {
        200: {"description": "Yes.", "content": {"text/plain": {}}},
        503: {"description": "Not now.", "content": {"text/plain": {}}},
    }
}

_JSON_ANSWER = {"description": "As the protocol says.", "content": {"application/json": {"schema": {"type": "object"}}}}
PROTOCOL: dict[str, Any] = {"responses": {200: _JSON_ANSWER, 404: _error("There is no such model."), **_ERRORS}}
INFER: dict[str, Any] = {
    "summary": "Compute probabilities",
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["inputs"],
                        "properties": {
                            "id": {"type": "string"},
                            "inputs": {
                                "type": "array",
                                "minItems": 1,
                                "maxItems": 1,
                                "items": {
                                    "type": "object",
                                    "required": ["name", "shape", "datatype", "data"],
                                    "properties": {
                                        "name": {"enum": ["pixels", "images"]},
                                        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                                        "datatype": {"enum": ["UINT8", "BYTES"]},
                                        "data": {"type": "array", "items": {}},
                                    },
                                },
                            },
                            "outputs": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["name"],
                                    "properties": {"name": {"enum": ["probabilities", "class_id", "class_name"]}},
                                },
                            },
                        },
                    },
                    "example": {
                        "inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": [_BASE64_IMAGE]}]
                    },
                }
            },
        }
    },
    "responses": {
        200: _JSON_ANSWER,
        400: _error("The request is not valid."),
        404: _error("There is no such model."),
        408: _error("The body did not arrive in time."),
        413: _error("The body is too large."),
        422: _error("An image cannot be read."),
        **_ERRORS,
    },
}
