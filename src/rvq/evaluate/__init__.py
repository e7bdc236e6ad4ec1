"""How good a codec sounds at how many bits: metrics, baselines, rate-distortion tables.

`metrics` compares two recordings, `baselines` holds the codecs to compare with, `rate_distortion`
runs systems over clips, `report` prints what came out, `perplexity` says how well codebooks are
used. PESQ, ESTOI and ViSQOL come with `pip install 'rvq[eval]'`.
"""
