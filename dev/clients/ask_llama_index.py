"""LlamaIndex' rerankers for Jina's API and for text-embeddings-inference; the second asks for sigmoids."""

from __future__ import annotations

from asked import Seen, in_order, read_cases
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

cases, seen = read_cases(), Seen("llama-index-core")
nodes = [NodeWithScore(node=TextNode(text=answer, id_=str(i))) for i, answer in enumerate(cases.answers)]
jina = JinaRerank(base_url=f"{cases.url}/v1", api_key="none", model="jina-reranker-v2", top_n=len(nodes))
tei = TextEmbeddingInference(base_url=cases.url, top_n=len(nodes))
for reranker, path, of in ((jina, "/v1/rerank", "answers"), (tei, "/rerank", "sigmoid answers")):
    ranked = reranker.postprocess_nodes([node.model_copy() for node in nodes], query_str=cases.question)
    seen.add(type(reranker).__name__, path, of, in_order([(int(node.node_id), node.score) for node in ranked]))
seen.tell()
