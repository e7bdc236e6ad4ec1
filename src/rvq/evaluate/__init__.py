"""How good a codec sounds at how many bits: metrics, peers, rate-distortion tables.

`metrics` compares two recordings (`learned` by trained networks), `baselines` says what a codec is
here, `peers` holds the others to compare with, `rate_distortion` runs systems over clips, `report`
and `page` show what came out, `perplexity` says how well codebooks are used. PESQ, ESTOI and ViSQOL
come with `pip install 'rvq[eval]'`.
"""
