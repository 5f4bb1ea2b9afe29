"""The load generator: drives any OpenAI-compatible URL and reports what a user would feel.

Knows nothing of our own server. It shares the machine with what it measures, so the hot path is
one asyncio protocol on a raw socket. Definitions follow `vllm bench serve`:

TTFT   from sending the request (connecting included) to the first chunk with text
ITL    the gaps between chunks with text
TPOT   (end-to-end - TTFT) / (output tokens - 1), for replies of two tokens or more
E2EL   from sending the request to the last chunk of the reply
"""
