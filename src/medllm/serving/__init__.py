"""An artifact behind a web page and an OpenAI-compatible API, with the guard before and after every answer.

    request -> `protocol` -> queue -> `batcher`: guard, model, guard -> events -> response, or the page

One thread owns the model; every answer under way shares its steps.
"""
