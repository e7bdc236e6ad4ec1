"""The web page: hear the codec, look inside it, learn how it works.

`server` answers the page on this machine, `listening` is what it answers with, `static_copy` writes
a copy that needs no server, for there the browser runs the networks itself. `tensors` is how both
hand sound to the page. `page` is served as it is: plain HTML, CSS and JavaScript modules. The
server comes with `pip install 'rvq[web]'`.
"""
