"""What crosses a socket, and who may: messages, keys, links, the door. The one room that the controller uses too."""
